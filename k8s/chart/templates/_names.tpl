{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "allezon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The beginning of every name. */}}
{{- define "allezon.fullname" -}}
{{- $name := include "allezon.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "allezon.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "allezon.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "allezon.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* What never changes between versions: for selectors. Takes (dict "root" $ "component" "…"). */}}
{{- define "allezon.selector" -}}
app.kubernetes.io/name: {{ include "allezon.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .zone }}
allezon.zone: {{ . }}
{{- end }}
{{- end }}

{{/* Of pods: what changes here restarts them. */}}
{{- define "allezon.podLabels" -}}
{{ include "allezon.selector" . }}
app.kubernetes.io/part-of: allezon
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "allezon.labels" -}}
{{ include "allezon.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* The name and labels of an object. Takes (dict "root" $ "component" "…" "name" "…" "annotations" {…}). */}}
{{- define "allezon.metadata" -}}
name: {{ .name }}
labels:
  {{- include "allezon.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
