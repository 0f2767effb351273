{{/* Annotations of an ingress controller for the roles that need any: long polls, bodies, and one worker for a device's requests. */}}
{{- define "hanse.controller" -}}
{{- if eq . "nginx" -}}
# The body of a federation transaction is larger than what nginx allows by itself. Files go through as they come.
fedin:
  nginx.ingress.kubernetes.io/proxy-body-size: 64m
  nginx.ingress.kubernetes.io/proxy-read-timeout: "330"
sync:
  nginx.ingress.kubernetes.io/upstream-hash-by: "$http_authorization$arg_access_token"
  nginx.ingress.kubernetes.io/proxy-read-timeout: "330"
media:
  nginx.ingress.kubernetes.io/proxy-body-size: "0"
  nginx.ingress.kubernetes.io/proxy-request-buffering: "off"
  nginx.ingress.kubernetes.io/proxy-buffering: "off"
  nginx.ingress.kubernetes.io/proxy-read-timeout: "330"
{{- else if eq . "haproxy" -}}
fedin: {haproxy.org/timeout-server: 330s}
sync: {haproxy.org/timeout-server: 330s, haproxy.org/load-balance: hdr(Authorization)}
media: {haproxy.org/timeout-server: 330s}
{{- end -}}
{{- end -}}

{{/* An Ingress. Called with a dict of root, role, name, host, secret, annotations, paths. */}}
{{- define "hanse.ingress" -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{- include "hanse.metadata" (dict "root" .root "name" .name "component" .role "annotations" .annotations) | nindent 2 }}
spec:
  {{- with .root.Values.ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- if .secret }}
  tls:
    - hosts: [{{ .host | quote }}]
      secretName: {{ .secret | quote }}
  {{- end }}
  rules:
    - host: {{ .host | quote }}
      http:
        paths:
          {{- range .paths }}
          - path: {{ index . 0 }}
            pathType: {{ index . 1 }}
            backend: {service: {name: {{ include "hanse.name" $.root }}-{{ $.role }}, port: {name: api}}}
          {{- end }}
{{- end -}}
