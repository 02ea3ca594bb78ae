-- SPDX-License-Identifier: Apache-2.0
--
-- The last line that wrk prints: what it saw, as JSON.
local PERCENTILES = { 50, 90, 99, 99.9 }

return function(summary, latency)
  local percentiles = {}
  for i, p in ipairs(PERCENTILES) do
    percentiles[i] = string.format('"p%g":%d', p, latency:percentile(p))
  end
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"bytes":%d,"latency_us":{%s},"errors":{"connect":%d,"read":%d,"write":%d,'
      .. '"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, summary.bytes, table.concat(percentiles, ","), errors.connect, errors.read,
    errors.write, errors.status, errors.timeout))
end
