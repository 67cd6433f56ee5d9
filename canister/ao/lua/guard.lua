-- Fences 1 and 2: the environment of a program, and the meter that its every step passes. Runs first, with the whole
-- library; what a program gets is in `env` alone. Rules for each function there: it ends after work that was charged
-- before, it calls nothing of the program's inside a loop of C, and it never looks at what the program may have changed.
local patterns = ...
local debug, sethook, traceback, metatable_of = debug, debug.sethook, debug.traceback, debug.getmetatable
local pcall, error, rawget, rawset, rawlen, type, select, next, tostring, tonumber, setmetatable, load =
  pcall, error, rawget, rawset, rawlen, type, select, next, tostring, tonumber, setmetatable, load
local string, table, math, coroutine, utf8, os = string, table, math, coroutine, utf8, os
local byte, sub, strfind, format, rep = string.byte, string.sub, string.find, string.format, string.rep
local running, cocreate, coresume = coroutine.running, coroutine.create, coroutine.resume
local pack, unpack, concat, mathtype, floor = table.pack, table.unpack, table.concat, math.type, math.floor
local cpu, date, time = os.clock, os.date, os.time
local collect = collectgarbage

-- The meter ---------------------------------------------------------------------------------------------------------
local STEP = 250                  -- instructions between two looks at the meter
local MAX_RANGE = 1000000         -- elements that one call of a table function may touch
local MAX_NESTED = 150            -- protected calls in one coroutine: unwinding more takes quadratic time
local PROTECTED = 30              -- the price of a protected call or a resume: where the C stack ends no hook runs
local used, limit, deadline, blown = 0, math.huge, math.huge, false
local hook

local function arm(co)
  local count = blown and 1 or STEP
  if co then sethook(co, hook, "", count) else sethook(hook, "", count) end
end

function hook()
  used = used + STEP
  if not blown then
    if used > limit then blown = "instruction limit reached"
    elseif cpu() > deadline then blown = "time limit reached"
    else return end
  end
  sethook(hook, "", 1)            -- in this thread every further instruction fails too
  error(blown, 0)
end

local function charge(n)          -- work that a function of C does without executing instructions
  used = used + (n > 0 and floor(n) or 0)
  if used > limit and not blown then blown = "instruction limit reached" end
  if blown then arm() error(blown, 0) end
end

local function passed(...)        -- nobody swallows the limit
  if blown then error(blown, 0) end
  return ...
end

-- Protected calls and coroutines --------------------------------------------------------------------------------------
local function is_out_of_memory(message)
  return type(message) == "string" and #message < 300 and strfind(message, "not enough memory", 1, true) ~= nil
end
local function caught(ok, message, ...)
  if not ok and is_out_of_memory(message) then blown = blown or "memory limit reached" end     -- that is final
  if blown then arm() error(blown, 0) end
  return ok, message, ...
end

local depths = setmetatable({}, { __mode = "k" })
local function enter()
  charge(PROTECTED)
  local co = running()
  local depth = depths[co] or 0
  if depth >= MAX_NESTED then error("too many nested protected calls", 3) end
  depths[co] = depth + 1
  return co, depth
end
local function leave(co, depth, ...)
  depths[co] = depth
  return caught(...)
end

local function safe_pcall(f, ...)
  local co, depth = enter()
  return leave(co, depth, pcall(f, ...))
end

local function safe_xpcall(f, handler, ...)      -- the handler runs after unwinding: inside, the hook would not run
  local co, depth = enter()
  local results = pack(leave(co, depth, pcall(f, ...)))
  if results[1] then return unpack(results, 1, results.n) end
  return passed(false, handler(results[2]))
end

local function safe_create(f)                    -- a new thread has no hook of its own
  local co = cocreate(f)
  arm(co)
  return co
end

local function safe_resume(co, ...)
  charge(PROTECTED)
  return caught(coresume(co, ...))
end

local function safe_wrap(f)
  local co = safe_create(f)
  return function(...)
    charge(PROTECTED)
    local results = pack(caught(coresume(co, ...)))
    if not results[1] then error(results[2], 0) end
    return unpack(results, 2, results.n)
  end
end

-- Values as text: without addresses, which tell where memory lies and differ from run to run ----------------------------
local names, n_named = setmetatable({}, { __mode = "k" }), 0
local function name_of(value)
  local found = names[value]
  if not found then
    n_named = n_named + 1
    found = format("%s: 0x%08x", type(value), n_named)
    names[value] = found
  end
  return found
end

local function safe_tostring(...)
  if select("#", ...) == 0 then error("bad argument #1 to 'tostring' (value expected)", 2) end
  local value = ...
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(value) end
  local meta = metatable_of(value)
  local made = meta and meta.__tostring
  if made then
    local text = made(value)
    if type(text) ~= "string" then error("'__tostring' must return a string", 2) end
    return text
  end
  return name_of(value)
end

-- Code from text --------------------------------------------------------------------------------------------------------
local env
local MAX_PARTS = 100000
local function safe_load(source, name, mode, ...)
  if type(source) == "function" then
    local parts, n_bytes = {}, 0
    for i = 1, MAX_PARTS do
      local part = source()
      if part == nil or part == "" then break end
      if type(part) ~= "string" then return nil, "reader function must return a string" end
      n_bytes = n_bytes + #part
      parts[i] = part
      charge(16)
    end
    charge(n_bytes // 16)
    source = concat(parts)
  end
  if type(source) ~= "string" then error("bad argument #1 to 'load' (string expected)", 2) end
  if byte(source, 1) == 27 then return nil, "attempt to load a binary chunk (a text chunk expected)" end
  if mode ~= nil and mode ~= "t" and mode ~= "bt" then return nil, "attempt to load a text chunk (mode is '" .. safe_tostring(mode) .. "')" end
  charge(#source)
  local where = env
  if select("#", ...) > 0 then where = (...) end
  return passed(load(source, type(name) == "string" and name or source, "t", where))
end

local function safe_setmetatable(t, meta)
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
    error("__gc is not available here", 2)                    -- finalizers run without the hook
  end
  return setmetatable(t, meta)
end

-- Strings -----------------------------------------------------------------------------------------------------------------
local S = {}
for _, name in next, { "byte", "char", "len" } do S[name] = string[name] end
for _, name in next, { "lower", "upper", "reverse", "pack", "unpack", "packsize" } do
  local f = string[name]
  S[name] = function(a, b, ...)
    charge(((type(a) == "string" and #a or 0) + (type(b) == "string" and #b or 0)) // 8)
    return f(a, b, ...)
  end
end
function S.sub(s, i, j)
  charge((type(s) == "string" and #s or 0) // 64)
  return sub(s, i, j)
end
function S.rep(s, n, separator)
  local n_bytes = 0
  if type(s) == "string" and type(n) == "number" then
    n_bytes = (#s + (type(separator) == "string" and #separator or 0)) * n
    if n > 0 and n_bytes == 0 then return "" end              -- nothing, for ever
  end
  charge(n_bytes / 16)
  return rep(s, n, separator)
end
function S.format(template, ...)
  local n, given = select("#", ...), pack(...)
  local n_bytes = type(template) == "string" and #template or 0
  for i = 1, n do
    local kind = type(given[i])
    if kind == "string" then n_bytes = n_bytes + #given[i]
    elseif kind ~= "number" and kind ~= "boolean" and kind ~= "nil" then
      if strfind(template, "%%[^%%]*s") then given[i] = safe_tostring(given[i]) end
    end
  end
  charge(n_bytes // 8)
  return format(template, unpack(given, 1, n))
end

-- The most that C's matcher may take: the length to the power of what can repeat, times what one step may look at.
local CHEAP = 2e6                 -- above it the matcher in Lua does the work, step by step
local MAX_PATTERN = 2000
local SPECIALS = "[%^%$%*%+%?%.%(%[%%%-]"
local function worst(s, p)
  local n, length = #p, #s + 1
  if n > MAX_PATTERN then error("pattern too long", 3) end
  local repeats, i = byte(p, 1) == 94 and 0 or 1, 1
  while i <= n do
    local c = byte(p, i)
    if c == 37 then                                           -- % and a letter
      i = i + 1
      local d = byte(p, i)
      if d == 98 or d and d >= 48 and d <= 57 then repeats = repeats + 1 end
    elseif c == 42 or c == 43 or c == 45 or c == 63 then repeats = repeats + 1 end
    i = i + 1
  end
  local cost = 1 + n // 8
  for _ = 1, repeats do
    cost = cost * length
    if cost > 1e15 then break end
  end
  return cost
end
local function texts(s, p)
  if type(s) == "number" then s = tostring(s) end
  if type(p) == "number" then p = tostring(p) end
  return s, p, type(s) == "string" and type(p) == "string"
end
for _, name in next, { "find", "match", "gsub" } do
  local fast, slow = string[name], patterns[name]
  S[name] = function(s, p, a, b)
    local are_texts
    s, p, are_texts = texts(s, p)
    if not are_texts then return fast(s, p, a, b) end
    if name == "find" and (b or #p > MAX_PATTERN and not strfind(p, SPECIALS) or p == "") then
      charge((#s * (1 + #p // 64) + #p) / 16)
      return fast(s, p, a, b)
    end
    local cost = worst(s, p)
    if cost > CHEAP then return passed(slow(s, p, a, b)) end
    charge(cost // 100)
    if name == "gsub" then return passed(fast(s, p, a, b)) end
    return fast(s, p, a)
  end
end
function S.gmatch(s, p)
  local are_texts
  s, p, are_texts = texts(s, p)
  if not are_texts then return string.gmatch(s, p) end
  local cost = worst(s, p)
  if cost > CHEAP then return patterns.gmatch(s, p) end
  charge(cost // 100)
  return string.gmatch(s, p)
end

local U = { charpattern = utf8.charpattern, char = utf8.char, codes = utf8.codes }
for _, name in next, { "len", "codepoint", "offset" } do
  local f = utf8[name]
  U[name] = function(s, ...)
    charge((type(s) == "string" and #s or 0) // 8)
    return f(s, ...)
  end
end

-- Tables: C's functions for plain ones, whose length is real; for others the same in Lua, where each step is metered -----
local T = { pack = pack }
local function length(t, name)
  if type(t) ~= "table" then error("bad argument #1 to '" .. name .. "' (table expected, got " .. type(t) .. ")", 3) end
  local n = #t
  if mathtype(n) ~= "integer" then error("object length is not an integer", 3) end
  return n
end
local function whole(value, default, name)
  if value == nil then return default end
  local found = mathtype(value) == "integer" and value or tonumber(value)
  found = found and (mathtype(found) == "integer" and found or math.tointeger(found))
  if not found then error("bad argument to '" .. name .. "' (number has no integer representation)", 3) end
  return found
end
local function is_plain(t) return metatable_of(t) == nil end
local function range(i, j, price)
  if i > j then return 0 end
  local n = j - i
  if n < 0 or n >= MAX_RANGE then error("range too long", 3) end
  charge(n / price)
  return n + 1
end

function T.insert(t, ...)
  local n, count = length(t, "insert"), select("#", ...)
  if count == 1 then
    if is_plain(t) then rawset(t, n + 1, (...)) else t[n + 1] = (...) end
    return
  end
  if count ~= 2 then error("wrong number of arguments to 'insert'", 2) end
  local at, value = ...
  at = whole(at, nil, "insert")
  if not at or at < 1 or at > n + 1 then error("bad argument #2 to 'insert' (position out of bounds)", 2) end
  if is_plain(t) then
    charge((n - at) / 4)
    return table.insert(t, at, value)
  end
  for i = n, at, -1 do t[i + 1] = t[i] end
  t[at] = value
end
function T.remove(t, at)
  local n = length(t, "remove")
  local is_given = at ~= nil
  at = whole(at, n, "remove")
  if is_plain(t) then
    charge((n - at) / 4)
    if is_given then return table.remove(t, at) end
    return table.remove(t)
  end
  if is_given and n + 1 ~= at and (at < 1 or at > n + 1) and not (n == 0 and at == 0) then
    error("bad argument #2 to 'remove' (position out of bounds)", 2)
  end
  local value = t[at]
  for i = at, n - 1 do t[i] = t[i + 1] end
  if at <= n then t[n] = nil end
  return value
end
function T.concat(t, separator, i, j)
  local n = length(t, "concat")
  i, j = whole(i, 1, "concat"), whole(j, n, "concat")
  range(i, j, 4)
  if is_plain(t) then return concat(t, separator, i, j) end
  local parts = {}
  for k = i, j do parts[k - i + 1] = t[k] end
  return concat(parts, separator, 1, j - i + 1)
end
function T.unpack(t, i, j)
  if type(t) ~= "table" then error("bad argument #1 to 'unpack' (table expected, got " .. type(t) .. ")", 2) end
  i = whole(i, 1, "unpack")
  j = whole(j, j == nil and length(t, "unpack") or nil, "unpack")
  local n = range(i, j, 4)
  if is_plain(t) or n == 0 then return unpack(t, i, j) end
  local parts = {}
  for k = i, j do parts[k - i + 1] = t[k] end
  return unpack(parts, 1, n)
end
function T.move(a, f, e, t, b)
  if b == nil then b = a end
  if type(a) ~= "table" or type(b) ~= "table" then error("bad argument to 'move' (table expected)", 2) end
  f, e, t = whole(f, nil, "move"), whole(e, nil, "move"), whole(t, nil, "move")
  if not (f and e and t) then error("bad argument to 'move' (number expected, got no value)", 2) end
  local n = range(f, e, 4)
  if n > 0 and t > math.maxinteger - n + 1 then error("bad argument #4 to 'move' (destination wrap around)", 2) end
  if is_plain(a) and is_plain(b) then return table.move(a, f, e, t, b) end
  if t > e or t <= f or a ~= b then for k = 0, n - 1 do b[t + k] = a[f + k] end
  else for k = n - 1, 0, -1 do b[t + k] = a[f + k] end end
  return b
end
function T.sort(t, order)
  local n = length(t, "sort")
  range(1, n, 0.25)
  if not is_plain(t) then
    local copy = {}
    for i = 1, n do copy[i] = t[i] end
    table.sort(copy, order)
    for i = 1, n do t[i] = copy[i] end
    return passed()
  end
  table.sort(t, order)
  return passed()
end

-- Numbers that are drawn: the same ones for the same seed, in every run ------------------------------------------------
local M = {}
for name, f in next, math do M[name] = f end
local state = 0
local function seed(n) state = n ~ 0x2545F4914F6CDD1D if state == 0 then state = 1 end end
local function draw()             -- xorshift64*
  state = state ~ (state >> 12)
  state = state ~ (state << 25)
  state = state ~ (state >> 27)
  return state * 0x2545F4914F6CDD1D
end
seed(1)
function M.randomseed(n) seed(math.tointeger(n) or floor(tonumber(n) or 0) % 0x7fffffff) end
function M.random(low, high)
  local drawn = draw()
  if low == nil then return (drawn >> 11) * (0.5 / (1 << 52)) end
  if high == nil then low, high = 1, low end
  low, high = whole(low, nil, "random"), whole(high, nil, "random")
  if not low or not high or low > high then error("bad argument to 'random' (interval is empty)", 2) end
  local span = high - low
  if span < 0 then error("bad argument to 'random' (interval too large)", 2) end
  if span == math.maxinteger then return low + (drawn >> 1) end
  return low + (drawn >> 1) % (span + 1)
end

-- The environment ------------------------------------------------------------------------------------------------------
local now_ms, lines, n_written = 0, {}, 0
local MAX_WRITTEN = 1 << 20
local function write(text)
  n_written = n_written + #text
  charge(#text // 16 + 16)
  if n_written <= MAX_WRITTEN then lines[#lines + 1] = text end
end
local function written(...)
  for i = 1, select("#", ...) do write(safe_tostring((select(i, ...)))) end
end
local source_info = { short_src = "aos", source = "=aos", what = "Lua", currentline = -1, linedefined = -1 }
local function info(f)
  local told = {}
  for key, value in next, source_info do told[key] = value end
  if type(f) == "function" then
    local found = debug.getinfo(f, "u")
    told.nparams, told.isvararg, told.func = found.nparams, found.isvararg, f
  end
  return told
end

env = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, load = safe_load,
  next = next, pairs = pairs, pcall = safe_pcall, rawequal = rawequal, rawget = rawget, rawlen = rawlen,
  rawset = rawset, select = select, setmetatable = safe_setmetatable, tonumber = function(text, ...)
    if type(text) == "string" then charge(#text // 8) end
    return tonumber(text, ...)
  end,
  tostring = safe_tostring, type = type, xpcall = safe_xpcall,
  collectgarbage = function(what) return what == "count" and collect("count") or 0 end,
  coroutine = {
    create = safe_create, resume = safe_resume, wrap = safe_wrap, yield = coroutine.yield, status = coroutine.status,
    running = running, isyieldable = coroutine.isyieldable,
  },
  debug = {
    traceback = function(message, ...)
      if type(message) == "thread" then message = (...) end
      if message ~= nil and type(message) ~= "string" and type(message) ~= "number" then return message end
      return traceback(message)
    end,
    getinfo = info,
  },
  io = { write = written, stderr = { write = function(self, ...) written(...) return self end, flush = function() end } },
  math = M,
  os = {
    time = function(t)
      if t == nil then return now_ms end
      return time(t)
    end,
    clock = function() return now_ms / 1000 end,
    date = function(template, at)
      template = template or "%c"
      if type(template) ~= "string" then error("bad argument #1 to 'date' (string expected)", 2) end
      charge(#template * 4)
      if byte(template, 1) ~= 33 then template = "!" .. template end
      return date(template, at and whole(at, nil, "date") or now_ms // 1000)
    end,
    difftime = function(a, b) return a - (b or 0) end,
    getenv = function() return nil end,
  },
  print = function(...)
    for i = 1, select("#", ...) do
      if i > 1 then write("\t") end
      write(safe_tostring((select(i, ...))))
    end
    write("\n")
  end,
  string = S, table = T, utf8 = U,
}
env._G = env
local meta = getmetatable("")
meta.__index, meta.__metatable = S, false

-- What crosses to the host: bytes, numbers and booleans, in tables without their metatables ----------------------------
local MAX_DEPTH, MAX_VALUES = 100, 200000
local function encode(value, out, depth)
  local kind = type(value)
  if kind == "string" then
    charge(#value // 16)
    out[#out + 1] = "s" .. #value .. ":"
    out[#out + 1] = value
  elseif kind == "number" then
    out[#out + 1] = mathtype(value) == "integer" and "i" .. format("%d", value) .. ";" or "d" .. format("%.17g", value) .. ";"
  elseif kind == "boolean" then out[#out + 1] = value and "T" or "F"
  elseif kind == "nil" then out[#out + 1] = "N"
  elseif kind == "table" then
    if depth >= MAX_DEPTH then error("a table is nested too deeply, or contains itself", 0) end
    out[#out + 1] = "t"
    for key, item in next, value do
      local of = type(item)
      if (type(key) == "string" or type(key) == "number") and of ~= "function" and of ~= "thread" and of ~= "userdata" then
        if #out > MAX_VALUES then error("a table has too many entries", 0) end
        encode(key, out, depth + 1)
        encode(item, out, depth + 1)
      end
    end
    out[#out + 1] = "e"
  else out[#out + 1] = "N" end
end
local function encoded(...)
  local out = {}
  for i = 1, select("#", ...) do encode((select(i, ...)), out, 0) end
  charge(#out)
  return concat(out)
end
local function decode(text, at)   -- the host wrote it: it is sound
  local c = byte(text, at)
  if c == 115 then                -- s
    local colon = strfind(text, ":", at, true)
    local last = colon + tonumber(sub(text, at + 1, colon - 1))
    return sub(text, colon + 1, last), last + 1
  elseif c == 105 or c == 100 then
    local stop = strfind(text, ";", at, true)
    local number = tonumber(sub(text, at + 1, stop - 1))
    return c == 105 and math.tointeger(number) or (number or 0 / 0) + 0.0, stop + 1
  elseif c == 84 then return true, at + 1
  elseif c == 70 then return false, at + 1
  elseif c == 78 then return nil, at + 1
  end
  local found, key, value = {}, nil, nil
  at = at + 1
  while byte(text, at) ~= 101 do
    key, at = decode(text, at)
    value, at = decode(text, at)
    rawset(found, key, value)
  end
  return found, at + 1
end
local function decoded(text)
  local values, n, at = {}, 0, 1
  while at <= #text do
    n = n + 1
    values[n], at = decode(text, at)
  end
  return unpack(values, 1, n)
end

-- The host's side --------------------------------------------------------------------------------------------------------
local R = { env = env }
local function told(ok, ...)
  if not ok then
    local message = ...
    local kind = type(message)
    if kind == "string" then return false, message end
    if kind == "number" then return false, tostring(message) end
    local meta = kind == "table" and metatable_of(message)
    if meta and rawget(meta, "__tostring") then return false, "an error object" end
    return false, kind == "table" and "an error object" or kind
  end
  return true, (...)
end

-- A function of the program's with encoded arguments; encoded results, or a message.
function R.run(budget, seconds, f, arguments)
  used, limit, deadline, blown, lines, n_written = 0, budget, cpu() + seconds, false, {}, 0
  local co = cocreate(function() return encoded(f(decoded(arguments))) end)
  arm(co)
  local ok, result = told(coresume(co))
  sethook()
  limit, deadline = math.huge, math.huge
  if not ok and is_out_of_memory(result) then blown = blown or "memory limit reached" end
  local ended = coroutine.status(co) == "dead"
  if blown then ok, result = false, blown
  elseif ok and not ended then ok, result = false, "attempt to yield from outside a coroutine" end
  blown = false
  return ok, result, used, concat(lines)
end
function R.compile(source, name)
  if byte(source, 1) == 27 then return nil, "attempt to load a binary chunk (a text chunk expected)" end
  return load(source, name, "t", env)
end
function R.evaluate(source, name)  -- as `eval` of a console: an expression, else statements
  return function()
    charge(#source)
    local f = load("return " .. source, name, "t", env)
    local message
    if not f then f, message = load(source, name, "t", env) end
    if not f then error(message, 0) end
    return f()
  end
end
function R.find(path)              -- a function of the program's by `name` or `name.name`
  local value = env
  for part in string.gmatch(path, "[^.]+") do
    if type(value) ~= "table" then return nil end
    value = rawget(value, part)
  end
  return type(value) == "function" and value or nil
end
function R.set(path, value)
  local owner, name = env, path
  local dot = strfind(path, ".", 1, true)
  if dot then
    owner, name = rawget(env, sub(path, 1, dot - 1)), sub(path, dot + 1)
    if type(owner) ~= "table" then owner = {} rawset(env, sub(path, 1, dot - 1), owner) end
  end
  rawset(owner, name, value)
end
function R.define(path, call)      -- a function of the host's as a plain one; its errors are strings
  R.set(path, function(...)
    local ok, result = call(encoded(...))
    if not ok then error(result, 2) end
    return passed(decoded(result))
  end)
end
function R.at(milliseconds) now_ms = milliseconds end
R.seed = seed

local globals = _G
for name in next, globals do globals[name] = nil end       -- nothing of the host stays reachable
return R
