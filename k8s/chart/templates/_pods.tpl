{{/* SPDX-License-Identifier: Apache-2.0

What pods have in common. */}}

{{/* A quantity of Kubernetes in MiB, rounded down. */}}
{{- define "allezon.mebibytes" -}}
{{- $units := dict "" 1.0 "k" 1000.0 "M" 1000000.0 "G" 1000000000.0 "T" 1000000000000.0 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $text := toString . -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $text "" -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "'%s' is no quantity like 512Mi or 4Gi" $text) -}}
{{- end -}}
{{- divf (mulf (regexFind "^[0-9.]+" $text | float64) (get $units $unit)) 1048576.0 | floor | int -}}
{{- end }}

{{/* The program reads the limit of its cgroup and splits it itself; here a limit that it would refuse is refused
before a pod crashes. Takes (dict "root" $ "component" "profile"). */}}
{{- define "allezon.checkMemory" -}}
{{- $limit := include "allezon.mebibytes" (index .root.Values .component).resources.limits.memory | int -}}
{{- $least := ternary 96 128 (eq .component "gateway") -}}
{{- if lt $limit $least -}}
{{- fail (printf "%s.resources.limits.memory: %d MiB are too few; the least are %dMi" .component $limit $least) -}}
{{- end -}}
{{- end }}

{{- define "allezon.podAnnotations" -}}
checksum/config: {{ include "allezon.placement" .root | sha256sum }}
{{- if and .root.Values.monitoring.scrapeAnnotations (not .root.Values.monitoring.podMonitor.enabled) }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- with (index .root.Values .component).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "allezon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "allezon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "allezon.podIdentity" -}}
serviceAccountName: {{ include "allezon.serviceAccountName" . }}
automountServiceAccountToken: false
# Their variables look like flags of the programs.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a pod may run: the values of its component; by default, and only by preference, apart from its equals. */}}
{{- define "allezon.scheduling" -}}
{{- $values := index .root.Values .component -}}
{{- $equals := include "allezon.selector" (dict "root" .root "component" .component) -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- /* Of its own component, where nothing is said: without a selector one takes no pod. */}}
  {{- range . }}
  - {{- toYaml (ternary . (merge (dict "labelSelector" (dict "matchLabels" (fromYaml $equals))) .)
      (hasKey . "labelSelector")) | nindent 4 }}
  {{- end }}
{{- end }}
{{- $affinity := deepCopy $values.affinity -}}
{{- if not (hasKey $affinity "podAntiAffinity") -}}
{{- $terms := list -}}
{{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 -}}
{{- $terms = append $terms (dict "weight" $weight "podAffinityTerm" (dict "topologyKey" $key
      "labelSelector" (dict "matchLabels" (fromYaml $equals)))) -}}
{{- end -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $terms) -}}
{{- end -}}
{{- with .zone -}}
{{- $term := dict "matchExpressions" (list (dict "key" "topology.kubernetes.io/zone" "operator" "In" "values" (list .))) -}}
{{- if dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "" $affinity -}}
{{- fail (printf "%s.affinity: a required nodeAffinity and cluster.zones exclude each other; use nodeSelector" $.component) -}}
{{- end -}}
{{- $node := dig "nodeAffinity" (dict) $affinity -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $term)) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end }}
affinity:
  {{- toYaml $affinity | nindent 2 }}
{{- end }}
