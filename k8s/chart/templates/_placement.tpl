{{/* SPDX-License-Identifier: Apache-2.0

Who there is: the one place that gateways, nodes and checks take it from. */}}

{{/* The sets of a service as a JSON list of {name, zone, replicas}: one for each zone, or one alone. The earlier
zones get what does not divide. Takes (dict "root" $ "component" "profile"). */}}
{{- define "allezon.sets" -}}
{{- $base := printf "%s-%s" (include "allezon.fullname" .root) .component -}}
{{- $replicas := int (index .root.Values .component).replicas -}}
{{- $zones := .root.Values.cluster.zones -}}
{{- $sets := list -}}
{{- range $i, $zone := $zones -}}
{{- $more := ternary 1 0 (lt $i (mod $replicas (len $zones) | int)) -}}
{{- $sets = append $sets (dict "name" (printf "%s-%s" $base $zone) "zone" $zone
      "replicas" (add (div $replicas (len $zones)) $more)) -}}
{{- else -}}
{{- $sets = append $sets (dict "name" $base "zone" "" "replicas" $replicas) -}}
{{- end -}}
{{- toJson $sets -}}
{{- end }}

{{- define "allezon.headless" -}}
{{- printf "%s-%s-nodes" (include "allezon.fullname" .root) .component -}}
{{- end }}

{{/* id=host:port[/zone],… of a service. Names without a domain are found in every cluster and namespace. */}}
{{- define "allezon.instances" -}}
{{- $root := .root -}}
{{- $headless := include "allezon.headless" . -}}
{{- $domain := "" -}}
{{- with $root.Values.cluster.domain -}}
{{- $domain = printf ".%s.svc.%s" $root.Release.Namespace . -}}
{{- end -}}
{{- $instances := list -}}
{{- range $set := include "allezon.sets" . | fromJsonArray -}}
{{- range $i := until (int $set.replicas) -}}
{{- $id := printf "%s-%d" $set.name $i -}}
{{- $zone := ternary (printf "/%s" $set.zone) "" (ne $set.zone "") -}}
{{- $instances = append $instances (printf "%s=%s.%s%s:7000%s" $id $id $headless $domain $zone) -}}
{{- end -}}
{{- end -}}
{{- join "," $instances -}}
{{- end }}

{{- define "allezon.placement" -}}
cluster: {{ default (printf "%s.%s" .Release.Namespace (include "allezon.fullname" .) | trunc 64) .Values.cluster.name | quote }}
shards: {{ .Values.cluster.shards | int | quote }}
rf: {{ .Values.cluster.rf | int | quote }}
write_quorum: {{ .Values.cluster.writeQuorum | int | quote }}
profiles: {{ include "allezon.instances" (dict "root" . "component" "profile") | quote }}
aggregates: {{ include "allezon.instances" (dict "root" . "component" "aggregate") | quote }}
{{- end }}

{{/* The flags of it, as ALLEZON_FLAG. Takes (dict "root" $ "flags" {flag: key}). */}}
{{- define "allezon.placementEnv" -}}
{{- $name := printf "%s-placement" (include "allezon.fullname" .root) -}}
{{- range $flag, $key := merge (dict "CLUSTER" "cluster" "SHARDS" "shards" "RF" "rf" "WRITE_QUORUM" "write_quorum") .flags }}
- name: ALLEZON_{{ $flag }}
  valueFrom:
    configMapKeyRef: {name: {{ $name }}, key: {{ $key }}}
{{- end }}
{{- end }}
