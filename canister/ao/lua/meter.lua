-- Fence 2: the meter that every step of a program passes, and what may catch errors, none of which swallows a limit.
local debug, coroutine, table, os, math = debug, coroutine, table, os, math
local sethook, pcall, error, type, setmetatable = debug.sethook, pcall, error, type, setmetatable
local running, cocreate, coresume, status = coroutine.running, coroutine.create, coroutine.resume, coroutine.status
local pack, unpack, floor, cpu, strfind = table.pack, table.unpack, math.floor, os.clock, string.find

-- The meter ---------------------------------------------------------------------------------------------------------
local STEP = 250                  -- instructions between two looks at the meter
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

-- A call of the program's --------------------------------------------------------------------------------------------
local function run(budget, seconds, f)            -- true and the result, or false and whatever was raised; what was used
  used, limit, deadline, blown = 0, budget, cpu() + seconds, false
  local co = cocreate(f)
  arm(co)
  local ok, result = coresume(co)
  sethook()
  limit, deadline = math.huge, math.huge
  if not ok and is_out_of_memory(result) then blown = blown or "memory limit reached" end
  if blown then ok, result = false, blown
  elseif ok and status(co) ~= "dead" then ok, result = false, "attempt to yield from outside a coroutine" end
  blown = false
  return ok, result, used
end

return {
  charge = charge, passed = passed, run = run, pcall = safe_pcall, xpcall = safe_xpcall,
  create = safe_create, resume = safe_resume, wrap = safe_wrap,
}
