-- SPDX-License-Identifier: Apache-2.0
--
-- Tags as text, by the assignment's numbers of values: 1,000,000 cookies, 1,000 origins, 250 brands, 67 categories, 100
-- countries. All but the time and the cookie of a tag comes from a table that is made in advance, so that a tag costs the
-- load generator one concatenation. Time is logical: it begins where the run says, and goes on as the clock does.
local ffi = require("ffi")
ffi.cdef([[
  struct allezon_timespec { long tv_sec; long tv_nsec; };
  int clock_gettime(int clock, struct allezon_timespec *now);
]])

local CLOCK_MONOTONIC_COARSE = 6 -- ticks every few milliseconds, and costs nothing to read
local KINDS = 4096
local COOKIE_HALF = 1000 -- a cookie's number is two of these digits groups

local tag = {}
local now = ffi.new("struct allezon_timespec")
local halves, tails = {}, {}
local started_ms, start_ms, time_ms, time_text

local function clock_ms()
  ffi.C.clock_gettime(CLOCK_MONOTONIC_COARSE, now)
  return tonumber(now.tv_sec) * 1000 + math.floor(tonumber(now.tv_nsec) / 1000000)
end

-- `start` is the logical time of the first tag, in seconds since 1970.
function tag.init(start, seed)
  math.randomseed(seed)
  for i = 1, COOKIE_HALF do halves[i] = string.format("%03d", i - 1) end
  local devices = { "PC", "MOBILE", "TV" }
  for i = 1, KINDS do
    tails[i] = string.format(
      '","country":"C%02d","device":"%s","action":"%s","origin":"origin_%03d","product_info":'
        .. '{"product_id":%04d,"brand_id":"brand_%03d","category_id":"category_%02d","price":%05d}}',
      math.random(0, 99), devices[math.random(3)], math.random(5) == 1 and "BUY" or "VIEW", math.random(0, 999),
      math.random(1000, 9999), math.random(0, 249), math.random(0, 66), math.random(10000, 99999))
  end
  started_ms, start_ms, time_ms = clock_ms(), start * 1000, -1
end

-- The bytes of a tag but for its device and action, which have several lengths, are always as many.
function tag.kind()
  return math.random(KINDS)
end

function tag.tail(kind)
  return tails[kind]
end

function tag.cookie_halves()
  return halves[math.random(COOKIE_HALF)], halves[math.random(COOKIE_HALF)]
end

function tag.time()
  local ms = start_ms + clock_ms() - started_ms
  if ms ~= time_ms then
    time_ms = ms
    time_text = os.date("!%Y-%m-%dT%H:%M:%S", math.floor(ms / 1000)) .. string.format(".%03d", ms % 1000)
  end
  return time_text
end

-- {"time":"2022-03-22T12:15:00.000Z","cookie":"cookie_123456 and the tail.
tag.HEAD = '{"time":"'
tag.MIDDLE = 'Z","cookie":"cookie_'
tag.FIXED_BYTES = #tag.HEAD + #"2022-03-22T12:15:00.000" + #tag.MIDDLE + 6

return tag
