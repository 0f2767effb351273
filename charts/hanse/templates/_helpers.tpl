{{- define "hanse.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that selectors use: they must not change. */}}
{{- define "hanse.selector" -}}
app.kubernetes.io/name: hanse
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hanse.labels" -}}
{{ include "hanse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* Values of a role: its own over the defaults. Called with a dict of root and role; gives YAML. */}}
{{- define "hanse.role" -}}
{{- $own := get .root.Values.roles .role | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{/* The port on which a role's requests come, if it has one. */}}
{{- define "hanse.apiPort" -}}
{{- if has . (list "client" "sync" "media") -}}8008{{- else if eq . "fedin" -}}8448{{- end -}}
{{- end -}}

{{/* hanse.yaml. What is secret comes from the environment. */}}
{{- define "hanse.config" -}}
{{- $grpc := dict "address" ":9090" -}}
{{- if .Values.grpcTLS.secretName -}}
{{- $_ := set $grpc "tls_cert" "/etc/hanse/grpc/tls.crt" -}}
{{- $_ := set $grpc "tls_key" "/etc/hanse/grpc/tls.key" -}}
{{- $_ := set $grpc "ca" "/etc/hanse/grpc/ca.crt" -}}
{{- end -}}
{{- $base := dict
  "server_names" .Values.serverNames
  "data_dir" "/tmp/hanse"
  "drain_delay" .Values.drain.delay
  "drain_timeout" .Values.drain.timeout
  "listen" (dict
    "client" (dict "address" ":8008")
    "federation" (dict "address" ":8448")
    "monitoring" (dict "address" ":9080")
    "grpc" $grpc
    "trusted_proxies" .Values.ingress.trustedProxies)
  "media" (dict "store" (dict "url" .Values.media.store))
  "client" (dict "public_base_url" .Values.publicBaseURL "public_server" .Values.publicServer)
-}}
{{- mergeOverwrite $base (deepCopy .Values.config) | toYaml -}}
{{- end -}}
