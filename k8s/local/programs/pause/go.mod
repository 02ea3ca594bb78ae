// SPDX-License-Identifier: Apache-2.0
module allezon/pause

go 1.24.0
