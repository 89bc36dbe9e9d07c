{{/* Which half of the operator this chart installs. */}}
{{- define "fedstudy.role" -}}site{{- end -}}
{{/* What it makes, and speaks to. */}}
{{- define "fedstudy.child" -}}agent{{- end -}}

{{/* Whether the hospital's resources can be made now: the cluster knows their kinds, or there is no cluster to ask. */}}
{{- define "fedstudy.kindsKnown" -}}
{{- if or (.Capabilities.APIVersions.Has "fedstudy.io/v1alpha1/SiteParticipant") (not (lookup "v1" "Namespace" "" "default")) -}}true{{- end -}}
{{- end -}}

{{- define "fedstudy.hospitalLabels" -}}
app.kubernetes.io/part-of: fedstudy
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
