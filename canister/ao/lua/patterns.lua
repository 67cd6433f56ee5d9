-- Lua 5.3 patterns in Lua: the same answers as the C matcher, but every step is metered by the instruction hook.
local byte, sub, match, char = string.byte, string.sub, string.match, string.char
local error, type, tostring, tonumber, setmetatable, floor, concat = error, type, tostring, tonumber, setmetatable, math.floor, table.concat
local classes = {}
for _, c in ipairs{"a", "c", "d", "g", "l", "p", "s", "u", "w", "x", "z"} do
  local t, T = {}, {}
  for i = 0, 255 do local yes = match(char(i), "%" .. c) ~= nil; t[i] = yes; T[i] = not yes end
  classes[c], classes[c:upper()] = t, T
end
local any = {} for i = 0, 255 do any[i] = true end
local singles = {}
local function single(b) local t = singles[b] if not t then t = {} for i = 0, 255 do t[i] = i == b end singles[b] = t end return t end

local function set_at(p, i)                       -- i is just after '['; gives table and the index after ']', or nil
  local t, neg, n = {}, false, #p
  for k = 0, 255 do t[k] = false end
  if byte(p, i) == 94 then neg = true i = i + 1 end
  local first = true
  while true do
    local c = byte(p, i)
    if not c then return nil end
    if c == 93 and not first then i = i + 1 break end
    first = false
    if c == 37 then
      i = i + 1
      local e = byte(p, i)
      if not e then return nil end
      local cl = classes[char(e)]
      if cl then for k = 0, 255 do if cl[k] then t[k] = true end end else t[e] = true end
      i = i + 1
    elseif byte(p, i + 1) == 45 and i + 2 <= n and byte(p, i + 2) ~= 93 then
      for k = c, byte(p, i + 2) do t[k] = true end
      i = i + 3
    else t[c] = true i = i + 1 end
  end
  if neg then for k = 0, 255 do t[k] = not t[k] end end
  return t, i
end

-- As in C, what is wrong with a pattern is an error only when matching gets there.
local UNCLOSED = "malformed pattern (missing ']')"
local compiled, ncompiled = {}, 0
local function compile(p)
  local prog = compiled[p]
  if prog then return prog end
  prog = { anchored = false, ncap = 0 }
  local i, n = 1, #p
  if byte(p, 1) == 94 then prog.anchored = true i = 2 end
  local open = {}
  while i <= n do
    local c = byte(p, i)
    if c == 40 then
      if prog.ncap >= 32 then prog[#prog + 1] = { "error", "too many captures" } break end
      prog.ncap = prog.ncap + 1
      if byte(p, i + 1) == 41 then prog[#prog + 1] = { "pos", prog.ncap } i = i + 2
      else open[#open + 1] = prog.ncap prog[#prog + 1] = { "open", prog.ncap } i = i + 1 end
    elseif c == 41 then
      local k = open[#open]
      if not k then prog[#prog + 1] = { "error", "invalid pattern capture" } break end
      open[#open] = nil
      prog[#prog + 1] = { "close", k } i = i + 1
    elseif c == 36 and i == n then prog[#prog + 1] = { "end" } i = i + 1
    elseif c == 37 and byte(p, i + 1) == 98 then
      local x, y = byte(p, i + 2, i + 3)
      if not y then prog[#prog + 1] = { "error", "malformed pattern (missing arguments to '%b')" } break end
      prog[#prog + 1] = { "bal", x, y } i = i + 4
    elseif c == 37 and byte(p, i + 1) == 102 then
      if byte(p, i + 2) ~= 91 then prog[#prog + 1] = { "error", "missing '[' after '%f' in pattern" } break end
      local t t, i = set_at(p, i + 3)
      if not t then prog[#prog + 1] = { "error", UNCLOSED } break end
      prog[#prog + 1] = { "front", t }
    elseif c == 37 and (byte(p, i + 1) or 0) >= 48 and (byte(p, i + 1) or 0) <= 57 then
      prog[#prog + 1] = { "back", byte(p, i + 1) - 48 } i = i + 2
    else
      local t
      if c == 46 then t = any i = i + 1
      elseif c == 37 then
        local e = byte(p, i + 1)
        if not e then prog[#prog + 1] = { "error", "malformed pattern (ends with '%')" } break end
        t = classes[char(e)] or single(e) i = i + 2
      elseif c == 91 then
        t, i = set_at(p, i + 1)
        if not t then prog[#prog + 1] = { "error", UNCLOSED } break end
      else t = single(c) i = i + 1 end
      local q = byte(p, i)
      if q == 42 or q == 43 or q == 45 or q == 63 then prog[#prog + 1] = { q, t } i = i + 1
      else prog[#prog + 1] = { "one", t } end
    end
  end
  if ncompiled > 16 then compiled, ncompiled = {}, 0 end
  compiled[p] = prog ncompiled = ncompiled + 1
  return prog
end

local function go(s, prog, cap, i, pc)            -- gives the index after the match, or nil
  while true do
    local op = prog[pc]
    if not op then return i end
    local k = op[1]
    if k == "one" then
      local b = byte(s, i)
      if not b or not op[2][b] then return nil end
      i = i + 1 pc = pc + 1
    elseif k == 42 or k == 43 then
      local t, j = op[2], i
      while true do local b = byte(s, j) if not b or not t[b] then break end j = j + 1 end
      local low = k == 43 and i + 1 or i
      if not prog[pc + 1] then if j >= low then return j end return nil end
      while j >= low do
        local r = go(s, prog, cap, j, pc + 1)
        if r then return r end
        j = j - 1
      end
      return nil
    elseif k == 45 then
      local t = op[2]
      while true do
        local r = go(s, prog, cap, i, pc + 1)
        if r then return r end
        local b = byte(s, i)
        if not b or not t[b] then return nil end
        i = i + 1
      end
    elseif k == 63 then
      local b = byte(s, i)
      if b and op[2][b] then
        local r = go(s, prog, cap, i + 1, pc + 1)
        if r then return r end
      end
      pc = pc + 1
    elseif k == "open" then
      local c = op[2]
      local oa, ob = cap[c * 2 - 1], cap[c * 2]
      cap[c * 2 - 1], cap[c * 2] = i, false
      local r = go(s, prog, cap, i, pc + 1)
      if not r then cap[c * 2 - 1], cap[c * 2] = oa, ob end
      return r
    elseif k == "pos" then
      cap[op[2] * 2 - 1], cap[op[2] * 2] = i, true
      pc = pc + 1
    elseif k == "close" then
      local c = op[2]
      cap[c * 2] = i
      local r = go(s, prog, cap, i, pc + 1)
      if not r then cap[c * 2] = false end
      return r
    elseif k == "end" then
      if i ~= #s + 1 then return nil end
      pc = pc + 1
    elseif k == "bal" then
      if byte(s, i) ~= op[2] then return nil end
      local depth, j = 1, i + 1
      while true do
        local b = byte(s, j)
        if not b then return nil end
        j = j + 1
        if b == op[3] then depth = depth - 1 if depth == 0 then break end
        elseif b == op[2] then depth = depth + 1 end
      end
      i = j pc = pc + 1
    elseif k == "error" then error(op[2], 0)
    elseif k == "front" then
      local t = op[2]
      if t[byte(s, i - 1) or 0] or not t[byte(s, i) or 0] then return nil end
      pc = pc + 1
    else -- back
      local c = op[2]
      local a, b = cap[c * 2 - 1], cap[c * 2]
      if c == 0 or not a or not b then error("invalid capture index %" .. c, 0) end
      local len = b == true and 0 or b - a
      if sub(s, i, i + len - 1) ~= sub(s, a, a + len - 1) then return nil end
      i = i + len pc = pc + 1
    end
  end
end

local function capture(s, cap, c)
  local x, y = cap[c * 2 - 1], cap[c * 2]
  if not y then error("unfinished capture", 0) end
  if y == true then return x end
  return sub(s, x, y - 1)
end
local function captures(s, prog, cap, a, e, whole)
  local r = {}
  for c = 1, prog.ncap do r[c] = capture(s, cap, c) end
  if prog.ncap == 0 and whole then r[1] = sub(s, a, e - 1) return r, 1 end
  return r, prog.ncap
end
local function search(s, prog, init)
  local i = init
  while i <= #s + 1 do
    local cap = {}
    local e = go(s, prog, cap, i, 1)
    if e then return i, e, cap end
    if prog.anchored then return nil end
    i = i + 1
  end
end
local unpack = table.unpack
local function start(s, init)
  init = init and floor(init) or 1
  if init < 0 then init = #s + init + 1 if init < 1 then init = 1 end elseif init == 0 then init = 1 end
  return init
end
local P = {}
local find, SPECIALS = string.find, "[%^%$%*%+%?%.%(%[%%%-]"
function P.find(s, p, init)
  local i = start(s, init) if i > #s + 1 then return nil end
  if not find(p, SPECIALS) then return find(s, p, i, true) end      -- as in C, where a `)` is then no error
  local prog = compile(p)
  local a, e, cap = search(s, prog, i)
  if not a then return nil end
  local r, n = captures(s, prog, cap, a, e, false)
  return a, e - 1, unpack(r, 1, n)
end
function P.match(s, p, init)
  local i = start(s, init) if i > #s + 1 then return nil end
  local prog = compile(p)
  local a, e, cap = search(s, prog, i)
  if not a then return nil end
  local r, n = captures(s, prog, cap, a, e, true)
  return unpack(r, 1, n)
end
function P.gmatch(s, p)
  local prog = compile(p)
  if prog.anchored then prog = compile("%^" .. sub(p, 2)) end      -- in gmatch '^' has no special meaning
  local i, last = 1, nil
  return function()
    while i <= #s + 1 do
      local cap = {}
      local e = go(s, prog, cap, i, 1)
      if e and e ~= last then
        local a = i
        i, last = e, e
        local r, n = captures(s, prog, cap, a, e, true)
        return unpack(r, 1, n)
      end
      i = i + 1
    end
  end
end
function P.gsub(s, p, repl, max)
  local prog, kind = compile(p), type(repl)
  if kind == "number" then repl, kind = tostring(repl), "string" end
  if kind ~= "string" and kind ~= "table" and kind ~= "function" then error("bad argument #3 to 'gsub' (string/function/table expected)", 0) end
  local out, n, i, count = {}, 0, 1, 0
  max = max and floor(max) or #s + 1
  local last
  while count < max do
    local cap = {}
    local e = go(s, prog, cap, i, 1)
    if e and e ~= last then
      count = count + 1
      local whole, v = sub(s, i, e - 1), nil
      local function one(k)                         -- as in C, only what is asked for must be finished
        if k <= prog.ncap then return capture(s, cap, k) end
        return k == 1 and whole or nil
      end
      if kind == "string" then
        local parts, k, m = {}, 1, #repl
        while k <= m do
          local b = byte(repl, k)
          if b == 37 then
            local d = byte(repl, k + 1)
            if d == 37 then parts[#parts + 1] = "%"
            elseif d == 48 then parts[#parts + 1] = whole
            elseif d and d >= 49 and d <= 57 then
              local x = one(d - 48)
              if x == nil then error("invalid capture index %" .. (d - 48) .. " in replacement string", 0) end
              parts[#parts + 1] = tostring(x)
            else error("invalid use of '%' in replacement string", 0) end
            k = k + 2
          else
            local j = k
            while j < m and byte(repl, j + 1) ~= 37 do j = j + 1 end
            parts[#parts + 1] = sub(repl, k, j) k = j + 1
          end
        end
        v = concat(parts)
      elseif kind == "table" then v = repl[one(1)]
      else
        local r, n_captured = captures(s, prog, cap, i, e, true)
        v = repl(unpack(r, 1, n_captured))
      end
      if not v then v = whole elseif type(v) ~= "string" and type(v) ~= "number" then error("invalid replacement value (a " .. type(v) .. ")", 0) end
      n = n + 1 out[n] = tostring(v)
      i, last = e, e
    elseif i <= #s then n = n + 1 out[n] = sub(s, i, i) i = i + 1
    else break end
    if prog.anchored then break end
  end
  n = n + 1 out[n] = sub(s, i)
  return concat(out), count
end
return P
