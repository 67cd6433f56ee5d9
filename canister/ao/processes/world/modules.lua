-- `require`, and the modules that programs of AO load by name. Every file here runs before any program does, in order.
local native = __native
package = { loaded = {}, preload = {}, path = "" }
local loaded = package.loaded
for _, name in ipairs{ "string", "table", "math", "coroutine", "os", "utf8", "debug" } do loaded[name] = _G[name] end
loaded._G = _G

function require(name)
  if type(name) ~= "string" then error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2) end
  local found = loaded[name]
  if found ~= nil then return found end
  local made = package.preload[name]
  if not made then error("module '" .. name .. "' not found", 2) end
  found = made(name)
  if loaded[name] == nil then loaded[name] = found == nil and true or found end
  return loaded[name]
end

-- Numbers of 32 bits ----------------------------------------------------------------------------------------------------
local MASK = 0xffffffff
bit32 = {
  band = function(...) local r = MASK for _, v in ipairs{ ... } do r = r & v end return r & MASK end,
  bor = function(...) local r = 0 for _, v in ipairs{ ... } do r = r | v end return r & MASK end,
  bxor = function(...) local r = 0 for _, v in ipairs{ ... } do r = r ~ v end return r & MASK end,
  bnot = function(v) return ~v & MASK end,
  btest = function(...) return bit32.band(...) ~= 0 end,
  lshift = function(v, n) return n < 0 and (v & MASK) >> -n or (v << n) & MASK end,
  rshift = function(v, n) return n < 0 and (v << -n) & MASK or (v & MASK) >> n end,
  arshift = function(v, n)
    v = v & MASK
    if n < 0 then return (v << -n) & MASK end
    if v & 0x80000000 ~= 0 then return n > 31 and MASK or ((v >> n) | (MASK << (32 - n))) & MASK end
    return v >> n
  end,
  lrotate = function(v, n) n = n % 32 v = v & MASK return ((v << n) | (v >> (32 - n))) & MASK end,
  rrotate = function(v, n) return bit32.lrotate(v, -n) end,
  extract = function(v, at, width) return (v & MASK) >> at & ((1 << (width or 1)) - 1) end,
  replace = function(v, with, at, width)
    local mask = (1 << (width or 1)) - 1
    return (v & ~(mask << at) | (with & mask) << at) & MASK
  end,
}
loaded.bit32 = bit32

-- Base64 and digests ----------------------------------------------------------------------------------------------------
loaded[".base64"] = {
  encode = function(data) return native.base64_encode(tostring(data)) end,
  decode = function(text) return native.base64_decode(tostring(text)) end,
}
loaded.base64 = loaded[".base64"]

local function hex_of(data) return (data:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
local function shown(data)
  return {
    asBytes = function() return data end, asString = function() return data end, asHex = function() return hex_of(data) end,
  }
end
local digest, mac = {}, {}
for _, name in ipairs{ "md5", "sha1", "sha2_256", "sha2_512", "sha3_256", "sha3_512", "blake2b" } do
  digest[name] = function(data) return shown(native.digest(name, tostring(data))) end
  mac[name] = function(data, key) return shown(native.hmac(name, tostring(key), tostring(data))) end
end
mac.createHmac = function(data, name, key) return mac[name](data, key) end
loaded[".crypto"] = {
  digest = digest, mac = mac, hmac = mac,
  utils = {
    hex = {
      stringToHex = hex_of,
      hexToString = function(text) return (text:gsub("%x%x", function(two) return string.char(tonumber(two, 16)) end)) end,
    },
    base64 = loaded[".base64"],
  },
}
for _, name in ipairs{ ".crypto.init", "crypto" } do loaded[name] = loaded[".crypto"] end
for _, name in ipairs{ "digest", "mac", "utils" } do loaded[".crypto." .. name] = loaded[".crypto"][name] end

-- Integers of many bits, two's complement, as decimal texts that the host computes with ----------------------------------
local function make_bint(bits)
  bits = bits or 256
  local B = { _BITS = bits, bits = bits }
  B.__index = B
  local function text(value)
    if getmetatable(value) == B then return value.digits end
    if type(value) == "number" then
      local whole = math.tointeger(value)
      if not whole then
        if value ~= value or value == math.huge or value == -math.huge then return nil end
        if value ~= math.floor(value) then return nil end
        return ("%.0f"):format(value)
      end
      return ("%d"):format(whole)
    end
    if type(value) == "string" then return native.int_parse(value, 10, bits) end
    return nil
  end
  local function needed(value)
    local found = text(value)
    if not found then error("value cannot be represented by a bint", 3) end
    return found
  end
  local function made(digits) return setmetatable({ digits = digits }, B) end
  local function op(name) return function(a, b) return made(native.int(name, needed(a), needed(b), bits)) end end
  local function compared(test) return function(a, b) return test(native.int_compare(needed(a), needed(b))) end end
  for name, word in pairs{ __add = "add", __sub = "sub", __mul = "mul", __idiv = "idiv", __mod = "mod", __band = "and",
      __bor = "or", __bxor = "xor", __shl = "shl", __shr = "shr", tdiv = "tdiv", tmod = "tmod", ipow = "pow",
      udiv = "udiv", umod = "umod" } do
    B[name] = op(word)
  end
  function B.__div(a, b) return B.tonumber(a) / B.tonumber(b) end
  function B.__pow(a, b) return B.tonumber(a) ^ B.tonumber(b) end
  function B.__unm(a) return made(native.int("sub", "0", needed(a), bits)) end
  function B.__bnot(a) return made(native.int("sub", "-1", needed(a), bits)) end
  function B.__tostring(a) return a.digits end
  function B.__concat(a, b) return tostring(a) .. tostring(b) end
  B.__eq = function(a, b) return text(a) == text(b) end
  B.__lt = compared(function(c) return c < 0 end)
  B.__le = compared(function(c) return c <= 0 end)
  B.lt, B.le = B.__lt, B.__le
  function B.eq(a, b) local x, y = text(a), text(b) if x and y then return x == y end return a == b end
  function B.ult(a, b) return native.int_compare(native.int_unsigned(needed(a), bits), native.int_unsigned(needed(b), bits)) < 0 end
  function B.ule(a, b) return not B.ult(b, a) end
  function B.idivmod(a, b) return a // B.new(b), a % B.new(b) end
  function B.udivmod(a, b) return B.udiv(a, b), B.umod(a, b) end
  function B.tdivmod(a, b) return B.tdiv(a, b), B.tmod(a, b) end
  function B.upowmod(a, b, m) return made(native.int_powmod(needed(a), needed(b), needed(m), bits)) end
  function B.isbint(value) return getmetatable(value) == B end
  function B.isintegral(value) return B.isbint(value) or math.tointeger(value) ~= nil end
  function B.isnumeric(value) return B.isbint(value) or type(value) == "number" end
  function B.type(value) return B.isbint(value) and "bint" or math.type(value) end
  function B.iszero(value) return needed(value) == "0" end
  function B.isone(value) return needed(value) == "1" end
  function B.isminusone(value) return needed(value) == "-1" end
  function B.isneg(value) return needed(value):sub(1, 1) == "-" end
  function B.ispos(value) return not B.isneg(value) and not B.iszero(value) end
  function B.iseven(value) return not B.isodd(value) end
  function B.isodd(value) return (tonumber(needed(value):sub(-1)) & 1) == 1 end
  function B.zero() return made("0") end
  function B.one() return made("1") end
  function B.maxinteger() return made(native.int_bound("max", bits)) end
  function B.mininteger() return made(native.int_bound("min", bits)) end
  function B.fromuinteger(value) return made(native.int_wrap(("%u"):gsub("u", "d"):format(value), bits, value < 0)) end
  function B.frominteger(value) return made(native.int_wrap(("%d"):format(value), bits, false)) end
  function B.frombase(value, base) local d = native.int_parse(value, base or 10, bits) return d and made(d) end
  function B.fromstring(value) local d = native.int_parse(value, 0, bits) return d and made(d) end
  function B.tobint(value, clone)
    if B.isbint(value) then return clone and made(value.digits) or value end
    local digits = text(value)
    return digits and made(native.int_wrap(digits, bits, false))
  end
  B.parse = B.tobint
  function B.new(value)
    local found = B.tobint(value)
    if not found then error("value cannot be represented by a bint", 2) end
    return found
  end
  function B.tobase(value, base) return native.int_base(needed(value), base or 10) end
  function B.tonumber(value) if B.isbint(value) then return math.tointeger(tonumber(value.digits)) or tonumber(value.digits) end return tonumber(value) end
  function B.tointeger(value) if B.isbint(value) then return native.int_small(value.digits) end return math.tointeger(value) end
  B.touinteger = B.tointeger
  function B.abs(value) return B.isneg(value) and -B.new(value) or B.new(value) end
  function B.inc(value) return B.new(value) + 1 end
  function B.dec(value) return B.new(value) - 1 end
  function B.max(a, b) return B.new(B.lt(a, b) and b or a) end
  function B.min(a, b) return B.new(B.lt(a, b) and a or b) end
  function B.compare(a, b) return native.int_compare(needed(a), needed(b)) end
  return setmetatable(B, { __call = function(_, value) return B.new(value) end })
end
loaded[".bint"] = function(bits) return make_bint(bits) end
loaded.bint = loaded[".bint"]

-- Small functions -------------------------------------------------------------------------------------------------------
local utils = { _version = "0.0.5" }
local MAGIC = "[%^%$%(%)%%%.%[%]%*%+%?]"

local function same_text(pattern, value)
  if pattern == value or pattern:lower() == value:lower() then return true end
  if not pattern:find(MAGIC) then return false end
  local ok, found = pcall(string.match, value, pattern)
  return ok and found ~= nil
end

-- One value against one pattern: `_`, text or Lua pattern, a function, a list of those, anything equal.
function utils.matchesPattern(pattern, value, msg)
  if pattern == nil or value == nil then return false end
  if pattern == "_" then return true end
  local kind = type(pattern)
  if kind == "function" then
    local found = pattern(value, msg)
    return found ~= nil and found ~= false and found ~= 0 and found ~= "skip"
  end
  if kind == "table" then
    for _, each in pairs(pattern) do
      if utils.matchesPattern(each, value, msg) then return true end
    end
    return false
  end
  if kind == "string" and type(value) ~= "table" then return same_text(pattern, tostring(value)) end
  return pattern == value or tostring(pattern) == tostring(value)
end

-- A message against a function, a table of names with their patterns, or an Action.
function utils.matchesSpec(msg, spec)
  local kind = type(spec)
  if kind == "function" then return spec(msg) end
  if kind == "string" then return msg.Action ~= nil and same_text(spec, tostring(msg.Action)) end
  if kind == "table" then
    for name, pattern in pairs(spec) do
      local value = msg[name]
      if value == nil and msg.Tags then value = msg.Tags[name] end
      if not utils.matchesPattern(pattern, value, msg) then return false end
    end
    return true
  end
  return false
end

local function curried(n, f, given)
  return function(...)
    local all = { table.unpack(given) }
    for _, value in ipairs{ ... } do all[#all + 1] = value end
    if #all >= n then return f(table.unpack(all)) end
    return curried(n, f, all)
  end
end
function utils.curry(f, n) return curried(n or debug.getinfo(f, "u").nparams or 2, f, {}) end
local function named(name, n, f) utils[name] = curried(n, f, {}) end
named("concat", 2, function(a, b)
  local all = {}
  for _, value in ipairs(a) do all[#all + 1] = value end
  for _, value in ipairs(b) do all[#all + 1] = value end
  return all
end)
named("reduce", 3, function(f, initial, t)
  local found = initial
  for i, value in ipairs(t) do if found == nil then found = value else found = f(found, value, i) end end
  return found
end)
named("map", 2, function(f, t) local r = {} for i, value in ipairs(t) do r[i] = f(value, i) end return r end)
named("filter", 2, function(f, t) local r = {} for _, value in ipairs(t) do if f(value) then r[#r + 1] = value end end return r end)
named("find", 2, function(f, t) for _, value in ipairs(t) do if f(value) then return value end end return nil end)
named("propEq", 3, function(name, value, t) return t[name] == value end)
named("prop", 2, function(name, t) return t[name] end)
named("includes", 2, function(value, t) for _, each in ipairs(t) do if each == value then return true end end return false end)
function utils.reverse(t) local r = {} for i = #t, 1, -1 do r[#r + 1] = t[i] end return r end
function utils.compose(...)
  local all = { ... }
  return function(value) for i = #all, 1, -1 do value = all[i](value) end return value end
end
function utils.keys(t) local r = {} for key in pairs(t) do r[#r + 1] = key end return r end
function utils.values(t) local r = {} for _, value in pairs(t) do r[#r + 1] = value end return r end
function utils.Tab(msg)
  local found = {}
  for _, tag in ipairs(msg.TagArray or msg.Tags or {}) do
    if type(tag) == "table" and tag.name and found[tag.name] == nil then found[tag.name] = tag.value end
  end
  return found
end
loaded[".utils"] = utils

-- Values as text for people ---------------------------------------------------------------------------------------------
local stringify = { _version = "0.0.1" }
local MAX_SHOWN = 40
function stringify.isSimpleArray(t)
  local n = 0
  for key, value in pairs(t) do
    n = n + 1
    if key ~= n or (type(value) ~= "number" and type(value) ~= "string") then return false end
  end
  return true
end
local function shown_value(value, indent, seen)
  if type(value) == "string" then return ("%q"):format(value):gsub("\\\n", "\\n") .. "" end
  if type(value) ~= "table" then return tostring(value) end
  return stringify.format(value, indent, seen)
end
function stringify.format(t, indent, seen)
  if type(t) ~= "table" then return tostring(t) end
  indent, seen = indent or 0, seen or {}
  if seen[t] or indent > MAX_SHOWN then return "<circular reference>" end
  seen[t] = true
  local parts = {}
  if stringify.isSimpleArray(t) then
    for i, value in ipairs(t) do parts[i] = (shown_value(value, indent, seen)) end
    seen[t] = nil
    return "{ " .. table.concat(parts, ", ") .. " }"
  end
  local pad = (" "):rep(indent + 2)
  for key, value in pairs(t) do
    local label = type(key) == "string" and key:match("^[%a_][%w_]*$") and key .. " = " or "[" .. shown_value(key, 0, seen) .. "] = "
    parts[#parts + 1] = pad .. label .. shown_value(value, indent + 2, seen)
  end
  seen[t] = nil
  return "{\n" .. table.concat(parts, ",\n") .. "\n" .. (" "):rep(indent) .. "}"
end
loaded[".stringify"] = stringify
loaded[".pretty"] = { tprint = function(t, indent) return stringify.format(t, indent) end }

-- JSON ------------------------------------------------------------------------------------------------------------------
local json = { _version = "0.2.0" }
local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function escaped(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end
local MAX_DEPTH = 100
local function write(value, out, depth)
  local kind = type(value)
  if kind == "nil" then out[#out + 1] = "null"
  elseif kind == "boolean" then out[#out + 1] = tostring(value)
  elseif kind == "string" then out[#out + 1] = escaped(value)
  elseif kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then error("unexpected number value '" .. tostring(value) .. "'", 0) end
    out[#out + 1] = math.type(value) == "integer" and ("%d"):format(value) or ("%.14g"):format(value)
  elseif kind == "table" then
    if getmetatable(value) and type(value.digits) == "string" then out[#out + 1] = escaped(value.digits) return end
    if depth > MAX_DEPTH then error("circular reference", 0) end
    if rawget(value, 1) ~= nil or next(value) == nil then
      local n = 0
      for key in pairs(value) do
        if type(key) ~= "number" then error("invalid table: mixed or invalid key types", 0) end
        n = n + 1
      end
      if n ~= #value then error("invalid table: sparse array", 0) end
      out[#out + 1] = "["
      for i, each in ipairs(value) do
        if i > 1 then out[#out + 1] = "," end
        write(each, out, depth + 1)
      end
      out[#out + 1] = "]"
    else
      out[#out + 1] = "{"
      local is_first = true
      for key, each in pairs(value) do
        if type(key) ~= "string" and type(key) ~= "number" then error("invalid table: mixed or invalid key types", 0) end
        if type(each) ~= "function" then
          if not is_first then out[#out + 1] = "," end
          is_first = false
          out[#out + 1] = escaped(tostring(key)) .. ":"
          write(each, out, depth + 1)
        end
      end
      out[#out + 1] = "}"
    end
  else error("unexpected type '" .. kind .. "'", 0) end
end
function json.encode(value)
  local out = {}
  write(value, out, 0)
  return table.concat(out)
end
function json.decode(text)
  if type(text) ~= "string" then error("expected argument of type string, got " .. type(text), 2) end
  return (native.json_decode(text))
end
loaded.json, loaded[".json"] = json, json
