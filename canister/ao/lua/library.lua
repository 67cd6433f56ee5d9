-- The library that a program gets in place of C's. Rules for each function: it ends after work that was charged before,
-- calls nothing of the program's inside a loop of C, and never looks at what the program may have changed.
local meter, patterns = ...
local charge, passed = meter.charge, meter.passed
local error, rawget, rawset, type, select, next, tostring, tonumber, setmetatable =
  error, rawget, rawset, type, select, next, tostring, tonumber, setmetatable
local string, table, math, utf8 = string, table, math, utf8
local byte, sub, strfind, format, rep = string.byte, string.sub, string.find, string.format, string.rep
local pack, unpack, concat, mathtype, floor = table.pack, table.unpack, table.concat, math.type, math.floor
local metatable_of = debug.getmetatable
local MAX_RANGE = 1000000         -- elements that one call of a table function may touch

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

-- The order of a table's keys: numbers, then texts, each rising. C's own order depends on where memory lies and on the
-- clock; a program that is run again by its log must see the same one. ----------------------------------------------------
-- nil where there are numbers alone that C gives in this order. How many keys are neither numbers, texts nor truth values:
-- these come last, in C's order.
local function ordered_keys(t)
  local others, n_others, texts, n_texts, numbers, n_numbers = nil, 0, nil, 0, {}, 0
  local is_rising, last, has_false, has_true = true, nil, false, false
  for key in next, t do
    local kind = type(key)
    if kind == "number" then
      n_numbers = n_numbers + 1
      numbers[n_numbers] = key
      if last and key < last then is_rising = false end
      last = key
    elseif kind == "string" then
      texts = texts or {}
      n_texts = n_texts + 1
      texts[n_texts] = key
    elseif key == true then has_true = true
    elseif key == false then has_false = true
    else
      others = others or {}
      n_others = n_others + 1
      others[n_others] = key
    end
  end
  local n = n_numbers + n_texts
  if is_rising and n == n_numbers and not others and not has_false and not has_true then return nil end
  charge(n)
  if not is_rising then table.sort(numbers) end
  if texts then
    table.sort(texts)
    table.move(texts, 1, n_texts, n_numbers + 1, numbers)
  end
  if has_false then n = n + 1 numbers[n] = false end
  if has_true then n = n + 1 numbers[n] = true end
  if others then table.move(others, 1, n_others, n + 1, numbers) end
  return numbers, n + n_others, n_others
end

local function from(t, keys, n, i)               -- the first key from place i on that is still there
  while i <= n do
    local key = keys[i]
    local value = rawget(t, key)
    if value ~= nil then return i, key, value end
    i = i + 1
  end
  return n
end

local function safe_pairs(t)
  local meta = metatable_of(t)
  local made = meta and rawget(meta, "__pairs")
  if made then
    local f, s, v = made(t)
    return f, s, v
  end
  if type(t) ~= "table" then error("bad argument #1 to 'for iterator' (table expected, got " .. type(t) .. ")", 2) end
  local keys, n = ordered_keys(t)
  if not keys then return next, t, nil end
  local i = 0
  return function()
    local key, value
    i, key, value = from(t, keys, n, i + 1)
    return key, value
  end, t, nil
end

local orders = setmetatable({}, { __mode = "k" })
local function safe_next(t, key)
  if type(t) ~= "table" then return next(t, key) end
  if key == nil then
    orders[t] = nil
    if next(t) == nil then return nil end
    local keys, n = ordered_keys(t)
    if not keys then return next(t) end
    orders[t] = { keys = keys, n = n }
    local _, first, value = from(t, keys, n, 1)
    return first, value
  end
  local order = orders[t]
  if not order then                              -- it began before the state came back from a snapshot, or never
    local keys, n = ordered_keys(t)
    if not keys then return next(t, key) end
    order = { keys = keys, n = n }
    orders[t] = order
  end
  local places = order.places
  if not places then
    places = {}
    for i = 1, order.n do places[order.keys[i]] = i end
    order.places = places
  end
  if not places[key] then return next(t, key) end
  local _, following, value = from(t, order.keys, order.n, places[key] + 1)
  return following, value
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

return {
  string = S, table = T, utf8 = U, math = M, tostring = safe_tostring, pairs = safe_pairs, next = safe_next,
  ordered_keys = ordered_keys, whole = whole, seed = seed, names = names,
  n_named = function(n)
    n_named = n or n_named
    return n_named
  end,
}
