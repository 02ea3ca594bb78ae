// SPDX-License-Identifier: Apache-2.0

//go:build programs

// Package programs keeps in go.mod what `go build` is asked for by name.
package programs

import _ "sigs.k8s.io/metrics-server/cmd/metrics-server"
