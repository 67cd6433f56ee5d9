-- Handlers: who gets a message. A pattern tells 0 (not this one), -1 (this one, then no other) or 1 (this one, and on).
local utils = require(".utils")
local Handlers = { _version = "0.0.5", list = {}, coroutines = {}, onceNonce = 0, utils = {} }

local function place_of(name)
  for i, each in ipairs(Handlers.list) do
    if each.name == name then return i end
  end
  return nil
end

-- A table of patterns and what is done for them becomes one function.
local function resolved(handler)
  if type(handler) == "function" then return handler end
  return function(msg, ...)
    for pattern, each in pairs(handler) do
      local found = utils.matchesSpec(msg, pattern)
      if found and found ~= 0 and found ~= "skip" then return resolved(each)(msg, ...) end
    end
  end
end
Handlers.generateResolver = resolved

local function is_handler(value) return type(value) == "function" or type(value) == "table" end
local function read(where, name, pattern, handler, max_runs)
  if is_handler(pattern) and not is_handler(handler) then       -- (action, handler[, maxRuns])
    name, pattern, handler, max_runs = name, name, pattern, handler
  end
  if type(name) ~= "string" then error("Handlers." .. where .. ": the name is a text, not a " .. type(name), 3) end
  if pattern == nil then error("Handlers." .. where .. ": " .. name .. " has no pattern", 3) end
  if type(pattern) ~= "string" and not is_handler(pattern) then
    error("Handlers." .. where .. ": the pattern of " .. name .. " is a text, a table or a function", 3)
  end
  if not is_handler(handler) then error("Handlers." .. where .. ": the handler of " .. name .. " is a function or a table", 3) end
  if max_runs ~= nil and type(max_runs) ~= "number" and max_runs ~= "inf" then
    error("Handlers." .. where .. ": maxRuns of " .. name .. " is a number", 3)
  end
  if max_runs == "inf" then max_runs = nil end
  return { name = name, pattern = pattern, handle = resolved(handler), maxRuns = max_runs }
end

local function put(made, at)
  local known = place_of(made.name)
  if known then Handlers.list[known] = made
  else table.insert(Handlers.list, at or #Handlers.list + 1, made) end
  return #Handlers.list
end

function Handlers.add(...) return put(read("add", ...)) end
Handlers.append = function(...) return put(read("append", ...)) end
function Handlers.prepend(...) return put(read("prepend", ...), 1) end
function Handlers.once(...)
  local made
  if type((...)) == "string" then
    made = read("once", ...)
  else
    Handlers.onceNonce = Handlers.onceNonce + 1
    made = read("once", "_once_" .. Handlers.onceNonce, ...)
  end
  made.maxRuns = 1
  return put(made, 1)
end
function Handlers.remove(name)
  local at = place_of(name)
  if at then table.remove(Handlers.list, at) end
end
local function beside(offset)
  return function(name)
    return {
      add = function(...)
        local made = read("add", ...)
        local at = place_of(name)
        Handlers.remove(made.name)
        at = place_of(name) or at
        table.insert(Handlers.list, at and math.min(at + offset, #Handlers.list + 1) or #Handlers.list + 1, made)
      end,
    }
  end
end
Handlers.before, Handlers.after = beside(0), beside(1)

-- Wait, in the midst of a handler, for a message.
function Handlers.receive(pattern)
  local waiting, is_main = coroutine.running()
  if is_main then error("Receive waits only inside of a handler", 2) end
  Handlers.onceNonce = Handlers.onceNonce + 1
  Handlers.once("_receive_" .. Handlers.onceNonce, pattern, function(msg)
    local ok, message = coroutine.resume(waiting, msg)
    if not ok then error(message, 0) end
  end)
  return coroutine.yield()
end

local WORDS = { skip = 0, ["break"] = -1, continue = 1, [true] = -1, [false] = 0 }
local function told(msg, pattern)
  local found = utils.matchesSpec(msg, pattern)
  if found == nil then return 0 end
  if type(found) == "number" then return found end
  local word = WORDS[found]
  if word == nil then return -1 end
  return word
end

-- Gives what the last handler returned, and whether one was found.
function Handlers.evaluate(msg, env)
  local all, handled = { table.unpack(Handlers.list) }, false
  for _, each in ipairs(all) do
    local answer = told(msg, each.pattern)
    if answer ~= 0 then
      if each.maxRuns then
        each.maxRuns = each.maxRuns - 1
        if each.maxRuns < 1 then
          for i, other in ipairs(Handlers.list) do
            if other == each then table.remove(Handlers.list, i) break end
          end
        end
      end
      handled = true
      each.handle(msg, env)
      if answer < 0 then return "handled", true end
    end
  end
  if not handled then Handlers.unhandled(msg) end
  return "handled", handled
end

function Handlers.utils.hasMatchingTag(name, value)
  return function(msg) return utils.matchesPattern(value, msg.Tags[name], msg) end
end
function Handlers.utils.hasMatchingTagOf(name, values)
  return function(msg) return utils.matchesPattern(values, msg.Tags[name], msg) end
end
function Handlers.utils.hasMatchingData(value)
  return function(msg) return utils.matchesPattern(value, msg.Data, msg) end
end
function Handlers.utils.reply(given)
  return function(msg)
    if type(given) == "table" then
      local copy = {}
      for key, value in pairs(given) do copy[key] = value end
      msg.reply(copy)
    else msg.reply({ Data = given }) end
  end
end
function Handlers.utils.continue(pattern)
  return function(msg)
    local answer = told(msg, pattern)
    return answer == 0 and 0 or 1
  end
end

_G.Handlers = Handlers
package.loaded[".handlers"], package.loaded[".handlers-utils"] = Handlers, Handlers.utils
