{{/* Names, labels and images. The chart's own _role.tpl says which role it is and what its rules are. */}}

{{- define "fedstudy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A cluster-scoped name: two releases of one name in two namespaces must not meet. */}}
{{- define "fedstudy.clustername" -}}
{{- printf "%s:%s" .Release.Namespace (include "fedstudy.fullname" .) -}}
{{- end -}}

{{- define "fedstudy.selector" -}}
app.kubernetes.io/name: fedstudy
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of all objects but pods; pods add the selector's own. */}}
{{- define "fedstudy.labels" -}}
app.kubernetes.io/name: fedstudy
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: fedstudy
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fedstudy.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fedstudy.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image's reference, from (dict "root" $ "image" .Values.image): the global registry, where one is set, goes before its own. */}}
{{- define "fedstudy.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "fedstudy.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "fedstudy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The rules of the operator over resources, from the chart's files/rules.yaml; docs/rbac.md is generated from the same file. */}}
{{- define "fedstudy.rules" -}}
{{- $file := .Files.Get "files/rules.yaml" | fromYaml -}}
{{- range $file.operator }}
{{- $verbs := .verbs }}
{{- if $.Values.watchNamespaces }}{{ $verbs = concat $verbs (default list .namespaced) }}{{ end }}
- {{ dict "apiGroups" .apiGroups "resources" .resources "verbs" $verbs | toYaml | nindent 2 | trim }}
{{- end }}
{{- if .Values.rbac.ownerReferencesPermissionEnforcement }}
- apiGroups: [fedstudy.io]
  resources: {{ $file.finalizers | toJson }}
  verbs: [update]
{{- end }}
{{- end -}}

{{/* Names of the pull secrets, joined by commas. */}}
{{- define "fedstudy.pullSecrets" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets }}{{ $names = append $names .name }}{{ end -}}
{{- join "," $names -}}
{{- end -}}

{{- define "fedstudy.lease" -}}
{{- default (printf "fedstudy-operator-%s" (include "fedstudy.role" .)) .Values.leaseName -}}
{{- end -}}
