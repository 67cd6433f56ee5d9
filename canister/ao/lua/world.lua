-- Fence 1: the environment of a program, and the border to the host, which alone holds what is returned here. Runs with
-- the whole library of C, and leaves nothing of it within reach.
local meter, library, snapshot = ...
local charge, passed, safe_tostring, whole = meter.charge, meter.passed, library.tostring, library.whole
local debug, traceback, metatable_of = debug, debug.traceback, debug.getmetatable
local error, rawget, rawset, type, select, next, tostring, tonumber, setmetatable, load =
  error, rawget, rawset, type, select, next, tostring, tonumber, setmetatable, load
local string, table, math, coroutine = string, table, math, coroutine
local byte, sub, strfind, format = string.byte, string.sub, string.find, string.format
local unpack, concat, mathtype = table.unpack, table.concat, math.type
local date, time = os.date, os.time

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
  next = library.next, pairs = library.pairs, pcall = meter.pcall, rawequal = rawequal, rawget = rawget, rawlen = rawlen,
  rawset = rawset, select = select, setmetatable = safe_setmetatable, tonumber = function(text, ...)
    if type(text) == "string" then charge(#text // 8) end
    return tonumber(text, ...)
  end,
  tostring = safe_tostring, type = type, xpcall = meter.xpcall,
  collectgarbage = function(what) return what == "count" and 0.0 or 0 end,   -- memory is not the same in each run
  coroutine = {
    create = meter.create, resume = meter.resume, wrap = meter.wrap, yield = coroutine.yield, status = coroutine.status,
    running = coroutine.running, isyieldable = coroutine.isyieldable,
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
  math = library.math,
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
  string = library.string, table = library.table, utf8 = library.utf8,
}
env._G = env
local meta = getmetatable("")
meta.__index, meta.__metatable = library.string, false

-- What crosses to the host: bytes, numbers and booleans, in tables without their metatables ----------------------------
local MAX_DEPTH, MAX_VALUES = 100, 200000
local ordered_keys = library.ordered_keys
local encode
local function entry(key, item, out, depth)
  local of, by = type(item), type(key)
  if (by == "string" or by == "number") and of ~= "function" and of ~= "thread" and of ~= "userdata" then
    if #out > MAX_VALUES then error("a table has too many entries", 0) end
    encode(key, out, depth)
    encode(item, out, depth)
  end
end
function encode(value, out, depth)
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
    local keys, n = ordered_keys(value)
    if keys then
      for i = 1, n do entry(keys[i], rawget(value, keys[i]), out, depth + 1) end
    else
      for key, item in next, value do entry(key, item, out, depth + 1) end
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
local function as_text(message)
  local kind = type(message)
  if kind == "string" then return message end
  if kind == "number" then return tostring(message) end
  return kind == "table" and "an error object" or kind
end

-- A function of the program's with encoded arguments; encoded results, or a message.
function R.run(budget, seconds, f, arguments)
  lines, n_written = {}, 0
  local ok, result, used = meter.run(budget, seconds, function() return encoded(f(decoded(arguments))) end)
  if not ok then result = as_text(result) end
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
function R.define(path, call, price)        -- a function of the host's as a plain one; its errors are strings
  local function f(...)
    charge(price)
    local ok, result = call(encoded(...))
    if not ok then error(result, 2) end
    return passed(decoded(result))
  end
  snapshot.name(f, path)
  R.set(path, f)
end
function R.begin() snapshot.begin(env) end
R.save, R.restore = snapshot.save, snapshot.restore
function R.at(milliseconds) now_ms = milliseconds end
R.seed = library.seed

local globals = _G
for name in next, globals do globals[name] = nil end       -- nothing of the host stays reachable
return R
