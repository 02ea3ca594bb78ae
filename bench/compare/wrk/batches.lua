-- SPDX-License-Identifier: Apache-2.0
--
-- POST /user_tags with application/x-ndjson. Arguments: logical start in seconds, seed, tags a request.
package.path = os.getenv("ALLEZON_WRK_DIR") .. "/?.lua;" .. package.path
local tag = require("tag")
done = require("report")

local lines = {}
local batch

function init(args)
  tag.init(tonumber(args[1]), tonumber(args[2]))
  batch = tonumber(args[3])
end

function request()
  for i = 1, batch do
    local first, second = tag.cookie_halves()
    lines[i] = tag.HEAD .. tag.time() .. tag.MIDDLE .. first .. second .. tag.tail(tag.kind())
  end
  local body = table.concat(lines, "\n")
  return "POST /user_tags HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: "
    .. #body .. "\r\n\r\n" .. body
end
