// SPDX-License-Identifier: Apache-2.0
//
// Definitions of what the chart makes of other projects' kinds: only their files are used.
module allezon/crds

go 1.24.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.0
)
