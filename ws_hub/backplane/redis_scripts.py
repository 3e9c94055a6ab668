"""The scripts of a history on a Redis server, each of which is done as a whole or not at all.

What is in which key, behind the prefix of the application:

    epoch                       the name of the numbering of all channels
    run                         the start of the server for which that holds, and "always" where
                                the server has on its disk what it answers
    changes                     how often something was kept
    history:<channel>:head      seq, the last number given; count and bytes of what is kept. Of the
                                beginning that stays: first, the number of its first message, end,
                                of its last one, kept, how many it has, size, their bytes, and
                                open, 1 while it has room. after, the number before the middle, and
                                lost, the bytes of that
    history:<channel>:messages  a stream of t, the text, and k, the key; the id is the number
    history:<channel>:keys      key -> number of its newest message
    history:<channel>:states    line -> its newest state, of lines that may still change
    used, expires               channels that keep something, by the time of it
    empty                       channels that kept something, by the time until which they did
    once                        what `has_published` knows, oldest first
    done:<token>                what a script has returned, for a moment
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = ["APPEND", "EXPIRE", "GREET", "HEADS", "READ", "RIGHTS", "SNAPSHOT", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name under which a server knows it.

    Args:
        text: the script.
        digest: its SHA-1.
    """

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        name = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", name)


# KEYS: of no use, and not there. ARGV: the channel to tell. Returns the commands that the user may
# not call, of those that the other scripts do: else these would be cut in the middle. Redis 6
# cannot be asked, so each is called there: those that write find a key of another kind, which is
# deleted at the end, and what is published is in a channel that nobody hears.
RIGHTS = Script("""
local key, channel, missing = KEYS[1], ARGV[1], {}
local may = redis.acl_check_cmd
if not may then
    channel = channel .. ':rights'
    may = function(...)
        local answer = redis.pcall(...)
        local text = type(answer) == 'table' and answer.err or ''
        return not string.find(text, "user executing the script can't", 1, true)
    end
end
local function check(...)
    if not may(...) then
        table.insert(missing, (...))
    end
end
check('set', key, '1', 'PX', '1000')
for _, name in ipairs({'get', 'incr', 'exists', 'mget', 'hgetall', 'hlen'}) do
    check(name, key)
end
for _, name in ipairs({'hget', 'hdel', 'zrem', 'zscore', 'xdel'}) do
    check(name, key, '1')
end
for _, name in ipairs({'xrange', 'xrevrange', 'zrange', 'zrangebyscore', 'zremrangebyrank'}) do
    check(name, key, '1', '2')
end
for _, name in ipairs({'hset', 'hsetnx', 'hmget', 'zadd'}) do
    check(name, key, '1', '2')
end
check('xadd', key, '1-0', 't', '1')
check('xtrim', key, 'MINID', '=', '1')
check('del', key)
check(string.sub(channel, 1, 1) == '{' and 'spublish' or 'publish', channel, '')
return missing
""")

# KEYS: epoch, run. ARGV: an epoch, the run of the server, "always" if what it answers is on its
# disk, 1 if it was a replica in this run. The numbering goes on where both runs kept everything,
# and is the server's own; a replica may not have had all.
GREET = Script("""
local epoch, known = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]) or ''
local run, kept = string.match(known, '^(%S+) ?(%S*)$')
if run == ARGV[2] then
    kept = kept == ARGV[3] and kept or ''
else
    if not epoch or kept ~= 'always' or ARGV[3] ~= 'always' or ARGV[4] ~= '0' then
        epoch = false
    end
    kept = ARGV[3]
end
if not epoch then
    redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[2] .. (kept == '' and '' or ' ' .. kept))
return 1
""")

# KEYS: epoch, changes, used, expires, empty, once, head, messages, keys, done, states.
# ARGV: an epoch, the time after which it is too late, channel, now, expires, messages and bytes
# kept at most, numbers to leave out, numbers to give, the channel to tell and what, milliseconds
# to remember it, bytes and messages of the beginning, the place of the message that begins a run
# or -1; how many `once`, these; how many states, of each its line and its text, which is
# empty for none, or -1 to forget all; then of each message its place, its key, its text.
APPEND = Script("""
local done = redis.call('GET', KEYS[10])
if done then
    return cjson.decode(done)
end
local time = redis.call('TIME')
if tonumber(time[1]) + tonumber(time[2]) / 1000000 > tonumber(ARGV[2]) then
    return redis.error_reply('LATE the caller does not wait any more')
end
local epoch, row = redis.call('GET', KEYS[1]), redis.call('HMGET', KEYS[7], 'seq', 'count', 'bytes',
    'first', 'end', 'kept', 'size', 'open', 'after', 'lost')
if not row[1] and redis.call('EXISTS', KEYS[8]) == 1 then
    redis.call('DEL', KEYS[8], KEYS[9], KEYS[11])
    epoch = false
end
if not epoch then
    epoch = ARGV[1]
    redis.call('SET', KEYS[1], epoch)
end
local seq, count, size = tonumber(row[1] or 0), tonumber(row[2] or 0), tonumber(row[3] or 0)
local most, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local first = seq + tonumber(ARGV[8]) + 1
local last = first + tonumber(ARGV[9]) - 1
local function id_of(seq)
    return string.format('%.0f', seq)
end
local at = 17 + tonumber(ARGV[16])
local repeated = {epoch, id_of(seq + 1), id_of(seq)}
for place = 17, at - 1 do
    if redis.call('ZSCORE', KEYS[6], ARGV[place]) then
        table.insert(repeated, ARGV[place])
    end
end
if repeated[4] then
    return repeated
end
local changes = redis.call('INCR', KEYS[2])
for place = 17, at - 1 do
    redis.call('ZADD', KEYS[6], changes, ARGV[place])
end
local states = tonumber(ARGV[at])
at = at + 1
if states < 0 then
    redis.call('DEL', KEYS[11])
    states = 0
end
for place = at, at + 2 * states - 1, 2 do
    if ARGV[place + 1] == '' then
        redis.call('HDEL', KEYS[11], ARGV[place])
    else
        redis.call('HSET', KEYS[11], ARGV[place], ARGV[place + 1])
    end
end
if states > 0 and redis.call('HLEN', KEYS[11]) > 256 then
    redis.call('DEL', KEYS[11])
end
local head_bytes, head_most = tonumber(ARGV[13]), tonumber(ARGV[14])
local head, head_end = tonumber(row[4] or 0), tonumber(row[5] or 0)
local head_count, head_size = tonumber(row[6] or 0), tonumber(row[7] or 0)
local open, after, lost = row[8] == '1', tonumber(row[9] or 0), tonumber(row[10] or 0)
if head_bytes == 0 then
    head, head_count, open = 0, 0, false
elseif open and head_end ~= seq then
    open = false -- an older release has added some, which knows of no beginning
end
for place = at + 2 * states, #ARGV, 3 do
    local id, key, text = id_of(first + tonumber(ARGV[place])), ARGV[place + 1], ARGV[place + 2]
    if head_bytes > 0 and (count == 0 or ARGV[place] == ARGV[15]) then
        head, head_count, head_size, open = first + tonumber(ARGV[place]), 0, 0, true
    end
    if open and head_count < head_most and head_size + #text <= head_bytes then
        head_end, head_count, head_size = tonumber(id), head_count + 1, head_size + #text
    else
        open = false
    end
    if key == '' then
        redis.call('XADD', KEYS[8], id .. '-0', 't', text)
    else
        local old = redis.call('HGET', KEYS[9], key)
        local entry = old and redis.call('XRANGE', KEYS[8], old, old)[1]
        if entry then
            redis.call('XDEL', KEYS[8], entry[1])
            count, size = count - 1, size - #entry[2][2]
        end
        redis.call('XADD', KEYS[8], id .. '-0', 't', text, 'k', key)
        redis.call('HSET', KEYS[9], key, id)
    end
    count, size = count + 1, size + #text
end
-- What is before the beginning goes first, then what is behind it; the last message stays.
if head_count > 0 and (count > most or size > most_bytes)
    and not redis.call('XRANGE', KEYS[8], id_of(head), id_of(head))[1] then
    head_count, open = 0, false -- an older release has let go of it
end
local stay, behind = head_count + (open and 0 or 1), false
while count > stay and (count > most or size > most_bytes) do
    local entries = {}
    if head_count == 0 then
        entries = redis.call('XRANGE', KEYS[8], '-', '+', 'COUNT', 64)
    elseif not behind then
        entries = redis.call('XRANGE', KEYS[8], '-', id_of(head - 1), 'COUNT', 64)
        behind = #entries == 0
    end
    if behind then
        entries = redis.call('XRANGE', KEYS[8], id_of(head_end + 1), '+', 'COUNT', 64)
    end
    local gone = {}
    for _, entry in ipairs(entries) do
        if count <= stay or (count <= most and size <= most_bytes) then
            break
        end
        table.insert(gone, entry[1])
        count, size = count - 1, size - #entry[2][2]
        if behind then
            after, lost = head_end, (after == head_end and lost or 0) + #entry[2][2]
        end
        if entry[2][4] then
            redis.call('HDEL', KEYS[9], entry[2][4])
        end
    end
    if #gone == 0 then
        count = head_count
        break
    end
    if behind then
        redis.call('XDEL', KEYS[8], unpack(gone))
    else
        local newest = tonumber(string.match(gone[#gone], '^%d+'))
        redis.call('XTRIM', KEYS[8], 'MINID', '=', id_of(newest + 1))
    end
end
redis.call('HSET', KEYS[7], 'seq', id_of(last), 'count', count, 'bytes', size)
if head_bytes > 0 then
    redis.call('HSET', KEYS[7], 'first', id_of(head), 'end', id_of(head_end), 'kept', head_count,
        'size', head_size, 'open', open and '1' or '0', 'after', id_of(after), 'lost', id_of(lost))
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[3])
redis.call('ZADD', KEYS[4], ARGV[5], ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
local answer = {epoch, id_of(first), id_of(last)}
redis.call('SET', KEYS[10], cjson.encode(answer), 'PX', ARGV[12])
-- In a cluster the names of channels have a hash tag, and tell one node.
redis.call(string.sub(ARGV[10], 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH', ARGV[10], ARGV[11])
return answer
""")

_HEAD = """
local epoch = redis.call('GET', KEYS[1])
if not epoch then
    epoch = ARGV[1]
    redis.call('SET', KEYS[1], epoch)
end
local function head_of(head, messages)
    local oldest = redis.call('XRANGE', messages, '-', '+', 'COUNT', 1)[1]
    return redis.call('HGET', head, 'seq'), oldest and oldest[1] or false
end
-- Returns the number of the first message of the beginning, and of the middle the number before
-- it, the one behind it, and its bytes; these are false where there is none.
local function middle_of(head, messages, oldest)
    local row = redis.call('HMGET', head, 'first', 'kept', 'after', 'lost')
    local begin, after, behind = row[2] and row[2] ~= '0' and row[1], tonumber(row[3] or 0), false
    if oldest and after > 0 and after >= tonumber(string.match(oldest, '^%d+')) then
        local number = string.format('%.0f', after + 1)
        behind = redis.call('XRANGE', messages, number, '+', 'COUNT', 1)[1]
    end
    return {begin, behind and row[3], behind and behind[1], behind and row[4]}
end
"""

# KEYS: epoch, head, messages, keys. ARGV: an epoch, the lowest and the highest number, 1 for the
# newest first, how many, and how many bytes.
READ = Script(
    _HEAD
    + """
local last, first = head_of(KEYS[2], KEYS[3])
local low, high, found, size = ARGV[2], ARGV[3], {}, 0
if ARGV[5] ~= '0' then
    local all
    if ARGV[4] == '1' then
        all = redis.call('XREVRANGE', KEYS[3], high, low, 'COUNT', ARGV[5])
    else
        all = redis.call('XRANGE', KEYS[3], low, high, 'COUNT', ARGV[5])
    end
    for _, entry in ipairs(all) do
        size = size + #entry[2][2]
        if size > tonumber(ARGV[6]) and #found > 0 then
            break
        end
        table.insert(found, entry)
    end
end
return {epoch, last, first, found, middle_of(KEYS[2], KEYS[3], first)}
"""
)

# KEYS: epoch, head, messages, keys. ARGV: an epoch.
SNAPSHOT = Script(
    _HEAD
    + """
local last, first = head_of(KEYS[2], KEYS[3])
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+')) do
    if entry[2][4] then
        table.insert(found, entry)
    end
end
return {epoch, last, first, found, {}}
"""
)

# KEYS: epoch. ARGV: an epoch, what the keys of channels begin with, and channels.
HEADS = Script(
    _HEAD
    + """
local found = {epoch}
for place = 3, #ARGV do
    local base = ARGV[2] .. ARGV[place]
    local last, first = head_of(base .. ':head', base .. ':messages')
    table.insert(found, {last, first})
end
return found
"""
)

# KEYS: epoch, expires, used, empty, once. ARGV: an epoch, now, until when the numbering of an
# empty channel is forgotten, what the keys of channels begin with, and how many `once` stay.
EXPIRE = Script("""
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'LIMIT', 0, 100)
for _, channel in ipairs(over) do
    local base, expired = ARGV[4] .. channel, redis.call('ZSCORE', KEYS[2], channel)
    redis.call('DEL', base .. ':messages', base .. ':keys', base .. ':states')
    redis.call('HSET', base .. ':head', 'count', 0, 'bytes', 0)
    redis.call('ZREM', KEYS[2], channel)
    redis.call('ZREM', KEYS[3], channel)
    redis.call('ZADD', KEYS[4], expired, channel)
end
local old = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[3], 'LIMIT', 0, 100)
for _, channel in ipairs(old) do
    redis.call('DEL', ARGV[4] .. channel .. ':head')
    redis.call('ZREM', KEYS[4], channel)
end
if #old > 0 then
    redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -1 - tonumber(ARGV[5]))
return #over + #old
""")
