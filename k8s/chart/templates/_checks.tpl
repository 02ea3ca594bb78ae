{{/* SPDX-License-Identifier: Apache-2.0

What must not be installed, said in a sentence before anything changes. */}}

{{- define "allezon.checks" -}}
{{- $root := . -}}
{{- $cluster := .Values.cluster -}}
{{- if gt (int $cluster.writeQuorum) (int $cluster.rf) -}}
{{- fail (printf "cluster.writeQuorum: a write quorum of %d needs as many replicas; cluster.rf is %d" (int $cluster.writeQuorum) (int $cluster.rf)) -}}
{{- end -}}
{{- range $component := list "profile" "aggregate" -}}
{{- $replicas := int (index $root.Values $component).replicas -}}
{{- if lt $replicas (int $cluster.rf) -}}
{{- fail (printf "%s.replicas: a replication factor of %d (cluster.rf) needs as many nodes; there are %d" $component (int $cluster.rf) $replicas) -}}
{{- end -}}
{{- $stop := add (index $root.Values $component).preStopSeconds 20 | int -}}
{{- if lt (int (index $root.Values $component).terminationGracePeriodSeconds) $stop -}}
{{- fail (printf "%s.terminationGracePeriodSeconds: a node takes up to %d s to end (preStopSeconds and 20)" $component $stop) -}}
{{- end -}}
{{- if lt $replicas (len $cluster.zones) -}}
{{- fail (printf "%s.replicas: %d nodes cannot be in %d zones (cluster.zones)" $component $replicas (len $cluster.zones)) -}}
{{- end -}}
{{- end -}}
{{/* What a gateway does after SIGTERM: the delay, 10 s for requests under way, 30 s for what is with the nodes. */}}
{{- $drain := add .Values.gateway.drainDelaySeconds 40 | int -}}
{{- if lt (int .Values.gateway.terminationGracePeriodSeconds) $drain -}}
{{- fail (printf "gateway.terminationGracePeriodSeconds: a gateway takes up to %d s to drain (gateway.drainDelaySeconds and 40), and would be killed after %d" $drain (int .Values.gateway.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- with .Values.gateway.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "gateway.autoscaling: minReplicas is %d, above maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.gateway.service -}}
{{- if and .externalTrafficPolicy (eq .type "ClusterIP") -}}
{{- fail (printf "gateway.service.externalTrafficPolicy: %s is for a Service of type NodePort or LoadBalancer" .externalTrafficPolicy) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.ingress.enabled (not .Values.gateway.ingress.hosts) -}}
{{- fail "gateway.ingress.hosts: name at least one host" -}}
{{- end -}}
{{- if and .Values.gateway.httpRoute.enabled (not .Values.gateway.httpRoute.parentRefs) -}}
{{- fail "gateway.httpRoute.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- $name := printf "%s-placement" (include "allezon.fullname" .) -}}
{{- $there := lookup "v1" "ConfigMap" .Release.Namespace $name -}}
{{- include "allezon.checkPlacement" (dict "there" (dig "data" (dict) $there) "wanted" (include "allezon.placement" . | fromYaml)) -}}
{{- range $component := list "profile" "aggregate" -}}
{{- range $set := include "allezon.sets" (dict "root" $root "component" $component) | fromJsonArray -}}
{{- $there := lookup "apps/v1" "StatefulSet" $root.Release.Namespace $set.name -}}
{{- include "allezon.checkStorage" (dict "component" $component "there" $there "wanted" (index $root.Values $component).storage) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Takes (dict "there" DATA "wanted" DATA): the placement that was installed, empty where none was. */}}
{{- define "allezon.checkPlacement" -}}
{{- $where := dict "cluster" "cluster.name" "shards" "cluster.shards" "rf" "cluster.rf" "write_quorum" "cluster.writeQuorum" "profiles" "the profile nodes (profile.replicas, cluster.zones, cluster.domain)" "aggregates" "the aggregate nodes (aggregate.replicas, cluster.zones, cluster.domain)" -}}
{{- range $key, $old := .there -}}
{{- $new := get $.wanted $key -}}
{{- if ne $old $new -}}
{{- fail (printf "%s cannot change once there is data: installed is '%s', wanted '%s'. Nothing was changed. docs/kubernetes.md, \"What cannot change\", says what to do" (get $where $key) $old $new) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Takes (dict "component" "profile" "there" STATEFULSET "wanted" STORAGE). */}}
{{- define "allezon.checkStorage" -}}
{{- range $claim := dig "spec" "volumeClaimTemplates" (list) .there -}}
{{- $old := dig "spec" "resources" "requests" "storage" "" $claim -}}
{{- if ne (include "allezon.mebibytes" $old) (include "allezon.mebibytes" $.wanted.size) -}}
{{- fail (printf "%s.storage.size: the claims were made with %s, and a StatefulSet cannot change that to %s. docs/kubernetes.md, \"A larger volume\", says how they grow" $.component $old $.wanted.size) -}}
{{- end -}}
{{- $class := dig "spec" "storageClassName" "" $claim -}}
{{- if and $.wanted.storageClass (ne $class $.wanted.storageClass) -}}
{{- fail (printf "%s.storage.storageClass: the claims were made with '%s', and a StatefulSet cannot change that to '%s'" $.component $class $.wanted.storageClass) -}}
{{- end -}}
{{- end -}}
{{- end }}
