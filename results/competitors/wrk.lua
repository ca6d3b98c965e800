-- wrk's result as one line of JSON, exact where its own text is rounded. Without a `request` function here wrk sends
-- one prepared request and never enters Lua while it measures.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"schema":"wrk/1","duration_us":%d,"requests":%d,' ..
        '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
        '"p50":%d,"p99":%d,"p999":%d,"max":%d}\n',
        summary.duration, summary.requests,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
