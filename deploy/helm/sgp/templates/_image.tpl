{{- /* Agent and controller are one image. */ -}}
{{- define "sgp.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
