-- The store's one writing operation: compare and swap in groups, with effects.
-- KEYS and ARGV are read in the order in which they are used. Nothing here knows what the bytes mean.
local key_at, arg_at = 0, 0
local function key() key_at = key_at + 1; return KEYS[key_at] end
local function arg() arg_at = arg_at + 1; return ARGV[arg_at] end

-- What goes to one list, or to one mailbox, goes at once in the end.
local posts, boxes, lists, grown = {}, {}, {}, {}
local function append(list, bytes, keep, most)
    local new = lists[list]
    if not new then
        new = { keep = keep, most = most }
        lists[list] = new
        grown[#grown + 1] = list
    end
    new[#new + 1] = bytes
end
local does = {
    put = function(name, bytes, keep) redis.call('SET', name, bytes, 'PX', keep) end,
    del = function(name) redis.call('DEL', name) end,
    app = function(name, bytes, keep, most) append(name, bytes, keep, tonumber(most)) end,
    fld = function(name, bytes, keep, field)
        redis.call('HSET', name, field, bytes)
        redis.call('PEXPIRE', name, keep)
    end,
    unf = function(name, _, _, field) redis.call('HDEL', name, field) end,
    add = function(name, number, keep, field)
        redis.call('HINCRBY', name, field, number)
        redis.call('PEXPIRE', name, keep)
    end,
}

local answers = {}
for s = 1, tonumber(arg()) do
    local writes = tonumber(arg())
    local keys_from, args_from, met = key_at, arg_at, true
    for _ = 1, writes do
        local name, expected = key(), arg()
        arg_at = arg_at + 2
        local version = redis.call('GETRANGE', name, 0, 7)
        if version ~= expected and not (expected == 'fresh' and (version == '' or version == 'accepted')) then
            met = false
        end
    end
    local after = arg_at
    if met then
        key_at, arg_at = keys_from, args_from
        for _ = 1, writes do
            local name, _, keep, bytes = key(), arg(), arg(), arg()
            if bytes == '' then redis.call('DEL', name) else redis.call('SET', name, bytes, 'PX', keep) end
        end
        answers[s] = 1
    else
        local current = {}
        for w = 1, writes do current[w] = redis.call('GET', KEYS[keys_from + w]) end
        answers[s] = current
    end
    arg_at = after
    for _ = 1, tonumber(arg()) do
        local what, bytes, keep, field = arg(), arg(), arg(), arg()
        if what == 'post' then
            -- One message for each mailbox and kind: field is the mailbox, keep the kind.
            if met then
                local box = keep .. field
                if not posts[box] then posts[box] = {}; boxes[#boxes + 1] = { field, keep, posts[box] } end
                local ids = posts[box]
                ids[#ids + 1] = bytes
            end
        else
            local name = key()
            if met then does[what](name, bytes, keep, field) end
        end
    end
end
for _, list in ipairs(grown) do
    local new, length = lists[list], 0
    -- Lua hands over so many arguments at once, and not many more.
    for from = 1, #new, 1000 do
        length = redis.call('RPUSH', list, unpack(new, from, math.min(from + 999, #new)))
    end
    if new.most > 0 and length > new.most then redis.call('LTRIM', list, -new.most, -1) end
    if new.most > 0 or length == #new then redis.call('PEXPIRE', list, new.keep) end
end
for _, box in ipairs(boxes) do
    redis.call('PUBLISH', box[1], box[2] .. table.concat(box[3]))
end
return answers
