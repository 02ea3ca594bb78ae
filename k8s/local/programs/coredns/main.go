// SPDX-License-Identifier: Apache-2.0

// As CoreDNS's own main, with all of its plugins.
package main

import (
	_ "github.com/coredns/coredns/core/plugin"
	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
