{{/* What all names begin with. */}}
{{- define "hanse.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that selectors use: they must not change. */}}
{{- define "hanse.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "hanse" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hanse.labels" -}}
{{ include "hanse.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Metadata of an object. Called with a dict of root, name, and perhaps component, labels, annotations.
*/}}
{{- define "hanse.metadata" -}}
{{- $annotations := mergeOverwrite (dict) .root.Values.commonAnnotations (get . "annotations" | default dict) -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "hanse.labels" .root | nindent 2 }}
  {{- with get . "component" }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with get . "labels" }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "hanse.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "hanse.name" .) -}}
{{- end -}}

{{/* The image, with what a role has of its own. Called with a dict of root and v, the values of a role. */}}
{{- define "hanse.image" -}}
{{- $own := .v.image | default dict -}}
{{- $image := merge (dict) $own .root.Values.image -}}
{{- $digest := ternary (get $own "digest") $image.digest (hasKey $own "tag") -}}
{{- if $digest -}}
{{- $image.repository }}@{{ $digest -}}
{{- else -}}
{{- $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion -}}
{{- end -}}
{{- end -}}

{{/* The host of publicBaseURL. */}}
{{- define "hanse.host" -}}
{{- (urlParse .Values.publicBaseURL).host -}}
{{- end -}}

{{/* A quantity of memory in bytes. */}}
{{- define "hanse.bytes" -}}
{{- $q := toString . -}}
{{- $factor := 1 -}}
{{- range $unit, $n := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- if and (eq $factor 1) (hasSuffix $unit $q) -}}
{{- $factor = $n -}}
{{- $q = trimSuffix $unit $q -}}
{{- end -}}
{{- end -}}
{{- mulf (float64 $q) $factor | int64 -}}
{{- end -}}

{{/* hanse.yaml of a role. What is secret comes from the environment. Called with a dict of root and v, the values of the role. */}}
{{- define "hanse.config" -}}
{{- $values := .root.Values -}}
{{- $grpc := dict "address" ":9090" -}}
{{- if $values.grpcTLS.secretName -}}
{{- $grpc = dict "address" ":9090" "tls_cert" "/etc/hanse/grpc/tls.crt" "tls_key" "/etc/hanse/grpc/tls.key" "ca" "/etc/hanse/grpc/ca.crt"
  "server_name" $values.grpcTLS.serverName "permissive" $values.grpcTLS.permissive -}}
{{- end -}}
{{- $config := dict
  "server_names" $values.serverNames
  "data_dir" "/tmp/hanse"
  "drain_delay" $values.drain.delay
  "drain_timeout" $values.drain.timeout
  "listen" (dict
    "client" (dict "address" ":8008")
    "federation" (dict "address" ":8448")
    "monitoring" (dict "address" ":9080")
    "grpc" $grpc
    "trusted_proxies" $values.ingress.trustedProxies)
  "postgresql" (dict "migrate" (not $values.hooks.migrate))
  "media" (dict "store" (dict "url" $values.media.store))
  "client" (dict
    "public_base_url" $values.publicBaseURL
    "public_server" ($values.publicServer | default (printf "%s:443" (include "hanse.host" .root | splitList ":" | first))))
-}}
{{- include "hanse.merge" (dict "into" $config "from" (deepCopy $values.config)) -}}
{{- include "hanse.merge" (dict "into" $config "from" (deepCopy .v.config)) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Name of the ConfigMap with a configuration: another one has another name, so no pod sees what is not meant for it. */}}
{{- define "hanse.configName" -}}
{{- include "hanse.name" .root }}-config-{{ include "hanse.config" . | sha256sum | trunc 10 -}}
{{- end -}}

{{/* Whether the cluster has an API. Called with a dict of root, api. Gives "true" or nothing. */}}
{{- define "hanse.has" -}}
{{- if .root.Capabilities.APIVersions.Has .api -}}true{{- end -}}
{{- end -}}

{{/* Most connections to each shard, while a role's last pod of an upgrade runs. */}}
{{- define "hanse.connections" -}}
{{- $sum := 2 -}}
{{- range $role, $_ := include "hanse.roles" . | fromYaml -}}
{{- $v := include "hanse.role" (dict "root" $ "role" $role) | fromYaml -}}
{{- $config := include "hanse.config" (dict "root" $ "v" $v) | fromYaml -}}
{{- $pods := ternary $v.autoscaling.maxReplicas $v.replicas $v.autoscaling.enabled | int -}}
{{- $sum = add $sum (mul (add1 $pods) (dig "postgresql" "max_conns" 16 $config)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
