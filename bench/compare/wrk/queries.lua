-- SPDX-License-Identifier: Apache-2.0
--
-- GET of a path with {name} in it, for which each request has another number. Arguments: the path, then NAME=NUMBERS=WIDTH
-- for each name: numbers below NUMBERS in WIDTH digits, at random; NAME=NUMBERS=WIDTH=in_turn: one after the other.
package.path = os.getenv("ALLEZON_WRK_DIR") .. "/?.lua;" .. package.path
done = require("report")

local SEED = 1
local pieces, names = {}, {} -- the text before each name, and what follows the last one; the names in their order
local sets = {}

function init(args)
  math.randomseed(SEED)
  for i = 2, #args do
    local name, numbers, width, turn = args[i]:match("^(%w+)=(%d+)=(%d+)=?(.*)$")
    sets[name] = { numbers = tonumber(numbers), format = "%0" .. width .. "d", in_turn = turn == "in_turn", last = -1 }
  end
  local rest = args[1]
  while true do
    local before, name, after = rest:match("^(.-){(%w+)}(.*)$")
    if not before then break end
    pieces[#pieces + 1], names[#names + 1], rest = before, name, after
  end
  pieces[#pieces + 1] = rest
end

local function number_of(set)
  set.last = set.in_turn and (set.last + 1) % set.numbers or math.random(0, set.numbers - 1)
  return string.format(set.format, set.last)
end

function request()
  local path = ""
  for i, name in ipairs(names) do path = path .. pieces[i] .. number_of(sets[name]) end
  return "GET " .. path .. pieces[#pieces] .. " HTTP/1.1\r\nHost: localhost\r\n\r\n"
end
