{{/* Which half of the operator this chart installs. */}}
{{- define "fedstudy.role" -}}hub{{- end -}}
{{/* What it makes, and speaks to. */}}
{{- define "fedstudy.child" -}}aggregator{{- end -}}
