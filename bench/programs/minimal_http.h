// SPDX-License-Identifier: Apache-2.0
//
// The least that a user would write around cpp-httplib: POST /user_tags, a thread a connection.
#pragma once

#include <functional>
#include <string>

namespace allezon::bench {

// Serves 127.0.0.1:`port` until SIGTERM, at most `connections` at a time. `take` gets each body, on
// the thread of its connection, and says the status of the answer. Returns the exit code.
int ServeMinimalHttp(int port, int connections, std::function<int(const std::string& body)> take);

}  // namespace allezon::bench
