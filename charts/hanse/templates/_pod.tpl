{{/*
Parts of a pod that runs the program for a role: the role's own pods, and those that check its configuration. Called with a dict
of root, role, v (the values of the role), config (the name of its ConfigMap).
*/}}

{{/* Variables of the container. */}}
{{- define "hanse.env" -}}
{{- $ip := "$(POD_IP)" -}}
{{- $secret := .root.Values.secret -}}
{{- $env := list
  (dict "name" "POD_IP" "valueFrom" (dict "fieldRef" (dict "fieldPath" "status.podIP")))
  (dict "name" "HANSE_WORKER_ID" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name")))
  (dict "name" "HANSE_LISTEN_GRPC_ADVERTISE" "value" (printf "%s:9090" (ternary (printf "[%s]" $ip) $ip .root.Values.ipv6)))
-}}
{{- $postgresql := ternary "postgresql" "migration" (or (ne .role "") (eq $secret.keys.migration "")) -}}
{{- range $variable, $key := dict "HANSE_POSTGRESQL_SHARDS" $postgresql "HANSE_NATS_URL" "nats" "HANSE_REDIS_URL" "redis" -}}
{{- $env = append $env (dict "name" $variable "valueFrom" (dict "secretKeyRef" (dict "name" $secret.name "key" (get $secret.keys $key)))) -}}
{{- end -}}
{{- if eq .role "client" -}}
{{- $env = append $env (dict "name" "HANSE_CLIENT_REGISTRATION_SHARED_SECRET"
  "valueFrom" (dict "secretKeyRef" (dict "name" $secret.name "key" $secret.keys.registration "optional" true))) -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" (.v.resources | default dict) -}}
{{- if and $limit .v.memoryLimitPercent -}}
{{- $bytes := div (mul (include "hanse.bytes" $limit | int64) (int64 .v.memoryLimitPercent)) 100 -}}
{{- $env = append $env (dict "name" "GOMEMLIMIT" "value" (toString $bytes)) -}}
{{- end -}}
{{- include "hanse.added" (dict "to" $env "list" .v.extraEnv "key" "name") -}}
{{- end -}}

{{/* Mounts of the container. A prefix stands before the names of volumes that are not the chart's. */}}
{{- define "hanse.mounts" -}}
- {name: {{ .prefix }}config, mountPath: /etc/hanse/hanse.yaml, subPath: hanse.yaml, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .root.Values.grpcTLS.secretName }}
- {name: grpc-tls, mountPath: /etc/hanse/grpc, readOnly: true}
{{- end }}
{{- range .v.extraVolumeMounts }}
- {{ toYaml (mergeOverwrite (deepCopy .) (dict "name" (printf "%s%s" $.prefix .name))) | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* Volumes of a role's own. */}}
{{- define "hanse.volumes" -}}
- name: {{ .prefix }}config
  configMap: {name: {{ .config }}}
{{- range .v.extraVolumes }}
- {{ toYaml (mergeOverwrite (deepCopy .) (dict "name" (printf "%s%s" $.prefix .name))) | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* Volumes that are the same for all. */}}
{{- define "hanse.commonVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.grpcTLS.secretName }}
- name: grpc-tls
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- end -}}
