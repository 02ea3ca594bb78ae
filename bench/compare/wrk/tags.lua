-- SPDX-License-Identifier: Apache-2.0
--
-- POST /user_tags, one tag a request. Arguments: logical start in seconds, seed.
package.path = os.getenv("ALLEZON_WRK_DIR") .. "/?.lua;" .. package.path
local tag = require("tag")
done = require("report")

local TAIL_BYTES_MAX = 600
local heads = {}

function init(args)
  tag.init(tonumber(args[1]), tonumber(args[2]))
  -- One head a length: requests are concatenated from what is there already.
  for bytes = 1, TAIL_BYTES_MAX do
    heads[bytes] = "POST /user_tags HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
      .. (tag.FIXED_BYTES + bytes) .. "\r\n\r\n" .. tag.HEAD
  end
end

function request()
  local tail = tag.tail(tag.kind())
  local first, second = tag.cookie_halves()
  return heads[#tail] .. tag.time() .. tag.MIDDLE .. first .. second .. tail
end
