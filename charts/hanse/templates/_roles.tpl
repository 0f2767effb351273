{{/*
What the roles are: one entry for each, and one in values.yaml and values.schema.json. The templates make the same objects for
each role out of
  port        the port on which its requests come, if any do
  paths       what the edge sends to it, as [path, type]
  adminPaths  the same below /_synapse
  egress      where its NetworkPolicy lets it: web (public addresses, ports 80 and 443), world (public addresses, any port)
An Ingress cannot match what stands behind a user or a room. What is below users, user, room and statistics belongs to media all
the same: client has nothing there.
*/}}
{{- define "hanse.table" -}}
room: {}
client:
  port: 8008
  paths: [[/_matrix, Prefix], [/.well-known/matrix, Prefix]]
  adminPaths: [[/_synapse, Prefix], [/_synapse/admin/v1/register, Exact]]
sync:
  port: 8008
  paths:
    - [/_matrix/client/v3/sync, Exact]
    - [/_matrix/client/r0/sync, Exact]
    - [/_matrix/client/v4/sync, Exact]
    - [/_matrix/client/unstable/org.matrix.simplified_msc3575/sync, Exact]
fedin:
  port: 8448
  paths: [[/_matrix/federation, Prefix], [/_matrix/key, Prefix]]
fedout:
  egress: world # server names and SRV records choose the port
push:
  egress: world # users name push gateways, with any port
appservice:
  egress: world # operators name services, with any port; those in private networks need rules of their own
media:
  port: 8008
  paths: [[/_matrix/media, Prefix], [/_matrix/client/v1/media, Prefix]]
  adminPaths:
    - [/_synapse/admin/v1/media, Prefix]
    - [/_synapse/admin/v1/purge_media_cache, Exact]
    - [/_synapse/admin/v1/users, Prefix]
    - [/_synapse/admin/v1/user, Prefix]
    - [/_synapse/admin/v1/room, Prefix]
    - [/_synapse/admin/v1/quarantine_media, Prefix]
    - [/_synapse/admin/v1/statistics, Prefix]
  egress: web # previews, and what other servers' media lie on
{{- end -}}

{{/* The table without the roles that the values leave out. */}}
{{- define "hanse.roles" -}}
{{- $all := include "hanse.table" . | fromYaml -}}
{{- range $role, $_ := $all -}}
{{- if not (hasKey $.Values.roles $role) -}}{{- $_ := unset $all $role -}}{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Values of a role: its own over the defaults. Called with a dict of root and role; gives YAML. */}}
{{- define "hanse.role" -}}
{{- $own := get .root.Values.roles .role | default dict -}}
{{- $v := deepCopy .root.Values.defaults -}}
{{- include "hanse.merge" (dict "into" $v "from" (deepCopy $own)) -}}
{{- range $list, $key := dict "extraEnv" "name" "extraVolumes" "name" "extraVolumeMounts" "mountPath" -}}
{{- $_ := set $v $list (include "hanse.added" (dict "to" (get $.root.Values.defaults $list) "list" (get $own $list) "key" $key) | fromYamlArray) -}}
{{- end -}}
{{- toYaml $v -}}
{{- end -}}

{{/* Merges mapping 'from' into mapping 'into', in place. Anything else replaces what was there, null removes it. */}}
{{- define "hanse.merge" -}}
{{- range $key, $value := .from -}}
{{- $old := get $.into $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $.into $key -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $old) -}}
{{- include "hanse.merge" (dict "into" $old "from" $value) -}}
{{- else -}}
{{- $_ := set $.into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* List 'to' with the entries of 'list' behind it. An entry of the same 'key' replaces the one before. Gives YAML. */}}
{{- define "hanse.added" -}}
{{- $list := .list | default list -}}
{{- $names := list -}}
{{- range $list -}}{{- $names = append $names (get . $.key) -}}{{- end -}}
{{- $all := list -}}
{{- range .to | default list -}}
{{- if not (has (get . $.key) $names) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- concat $all $list | toYaml -}}
{{- end -}}
