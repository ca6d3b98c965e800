
-- @PIPELINE@ requests in one send; the text is made once.
local batch
init = function(args)
    local parts = {}
    for i = 1, @PIPELINE@ do
        parts[i] = wrk.format(nil, "/")
    end
    batch = table.concat(parts)
end
request = function()
    return batch
end
