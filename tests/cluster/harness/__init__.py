# SPDX-License-Identifier: Apache-2.0
"""What the cluster tests are written with. See tests/cluster/README.md."""
