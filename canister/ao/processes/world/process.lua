-- One message: it becomes `msg`, whoever may not speak is turned away, handlers run, and the result is put together.
local utils, stringify, json = require(".utils"), require(".stringify"), require("json")
local base_print = print
local MAX_INBOX = 10000
Inbox, Errors, Owner, Name, Version = {}, {}, "", "", "2.0.6"
Utils, Dump = utils, stringify.format
Colors = { red = "\27[31m", green = "\27[32m", blue = "\27[34m", reset = "\27[0m", gray = "\27[90m", yellow = "\27[33m" }

function print(...)
  local shown = {}
  for i = 1, select("#", ...) do
    local value = (select(i, ...))
    shown[i] = type(value) == "table" and not (getmetatable(value) and getmetatable(value).__tostring) and stringify.format(value) or tostring(value)
  end
  base_print(table.concat(shown, "\t"))
end
function Prompt()
  return Colors.green .. (Name ~= "" and Name or "aos") .. Colors.gray .. "@" .. Colors.blue .. "aos-" .. Version .. Colors.reset ..
    "[Inbox:" .. Colors.red .. #Inbox .. Colors.reset .. "]> "
end
function Tab(msg) return utils.Tab(msg) end
function Bell() base_print("\7") end

function Handlers.unhandled(msg)
  Inbox[#Inbox + 1] = msg
  if #Inbox > MAX_INBOX then table.remove(Inbox, 1) end
end

-- Names of a message: as they are written, else in any case.
local function caseless(fields, tags)
  local lower
  return function(_, key)
    if type(key) ~= "string" then return nil end
    local found = tags[key]
    if found ~= nil then return found end
    if not lower then
      lower = {}
      for name, value in pairs(tags) do if lower[name:lower()] == nil then lower[name:lower()] = value end end
      for name, value in pairs(fields) do if lower[name:lower()] == nil then lower[name:lower()] = value end end
    end
    return lower[key:lower()]
  end
end

local function answering(msg)
  local function reference() return msg["X-Reference"] or msg.Reference end
  msg.reply = function(given)
    if type(given) ~= "table" then given = { Data = given } end
    given.Target = given.Target or msg["Reply-To"] or msg.From
    if given["X-Reference"] == nil and not (given.Tags and given.Tags["X-Reference"]) then given["X-Reference"] = reference() end
    if given["X-Origin"] == nil then given["X-Origin"] = msg["X-Origin"] end
    return ao.send(given)
  end
  msg.forward = function(target, given)
    local sent = { Target = target, Data = msg.Data, Tags = {} }
    for _, tag in ipairs(msg.TagArray) do
      if not ({ ["data-protocol"] = 1, variant = 1, type = 1, reference = 1, ["from-process"] = 1, ["from-module"] = 1,
          ["pushed-for"] = 1, ["x-reference"] = 1, ["reply-to"] = 1, ["x-origin"] = 1 })[tag.name:lower()] then
        sent.Tags[tag.name] = tag.value
      end
    end
    for key, value in pairs(given or {}) do
      if key == "Tags" then for name, each in pairs(value) do sent.Tags[name] = each end
      else
        for name in pairs(sent.Tags) do
          if type(key) == "string" and name:lower() == key:lower() then sent.Tags[name] = nil break end
        end
        sent[key] = value
      end
    end
    sent["Reply-To"] = sent["Reply-To"] or msg["Reply-To"] or msg.From
    sent["X-Reference"] = sent["X-Reference"] or reference()
    sent["X-Origin"] = sent["X-Origin"] or msg["X-Origin"] or msg.From
    return ao.send(sent)
  end
end

local function read(given)
  local msg, named = given, {}
  msg.TagArray = given.Tags
  for _, tag in ipairs(msg.TagArray) do if named[tag.name] == nil then named[tag.name] = tag.value end end
  local fields = {}
  for key, value in pairs(msg) do if type(value) ~= "table" then fields[key] = value end end
  local plain = {}
  for name, value in pairs(named) do plain[name] = value end
  msg.Tags = setmetatable(named, { __index = caseless({}, plain) })
  setmetatable(msg, { __index = caseless(fields, plain) })
  answering(msg)
  return msg
end

-- Eval -----------------------------------------------------------------------------------------------------------------
local function evaluated(msg)
  local code = tostring(msg.Data or "")
  local f, message = load("return " .. code, "=eval", "t", _G)
  if not f then f, message = load(code, "=eval", "t", _G) end
  if not f then error(message, 0) end
  local found = table.pack(f())
  if found[2] ~= nil then
    ao.outbox.Error = type(found[2]) == "table" and stringify.format(found[2]) or tostring(found[2])
    return
  end
  local value = found[1]
  local shown = ""
  if found.n > 0 then
    if type(value) == "table" and not (getmetatable(value) and getmetatable(value).__tostring) then shown = stringify.format(value)
    else shown = tostring(value) end
  end
  ao.outbox.Output = { data = shown, is_value = true }
end
Handlers.add("_eval", function(msg) return msg.Action == "Eval" and msg.From == Owner end, evaluated)
Handlers.add("_default", function() return false end, function() end)

-- The host's calls -----------------------------------------------------------------------------------------------------
local function text_of(value)
  if value == nil then return "" end
  if type(value) == "string" then return value end
  if type(value) == "table" then
    if type(value.output) == "string" then return value.output end
    local ok, text = pcall(json.encode, value)
    return ok and text or stringify.format(value)
  end
  return tostring(value)
end
local function shown_output(result)
  local output = result.Output
  local is_table = type(output) == "table"
  local data = is_table and output.data or (not is_table and output or nil)
  if data == nil and is_table and output[1] ~= nil then
    local lines = {}
    for i, line in ipairs(output) do lines[i] = text_of(line) end
    data = table.concat(lines, "\n")
  end
  local prompt = ""
  local ok, text = pcall(function() return type(Prompt) == "function" and Prompt() or Prompt end)
  if ok and type(text) == "string" then prompt = text end
  return { data = text_of(data), prompt = prompt, is_value = is_table and output.is_value or false }
end
local function result_of()
  local result = ao.result({})
  if result.Error then return { Error = tostring(result.Error) } end
  result.Output = shown_output(result)
  return result
end
local function run(f)
  ao.clearOutbox()
  local worker = coroutine.create(f)
  local ok, message = coroutine.resume(worker)
  if ok then return result_of() end
  if type(message) == "table" then message = message.message or stringify.format(message) end
  message = tostring(message)
  Errors[#Errors + 1] = message
  if #Errors > 1000 then table.remove(Errors, 1) end
  ao.clearOutbox()
  return { Error = message }
end

local process = { _version = Version }
function process.handle(msg)
  msg = read(msg)
  return run(function()
    if ao.isAssignment(msg) and not ao.isAssignable(msg) then
      print("Assignment is not trusted by this process! From: " .. tostring(msg.From))
      return
    end
    if msg.From ~= msg.Owner and not ao.isTrusted(msg) then
      print("Message is not trusted by this process! From: " .. tostring(msg.From) .. " - Owner: " .. tostring(msg.Owner))
      return
    end
    Handlers.evaluate(msg, ao.env)
  end)
end
function process.boot(info, boot, msg)
  ao.id, ao._module, Owner = info.Id, info.Module, info.Owner
  ao.env.Process = { Id = info.Id, Owner = info.Owner, Tags = {}, TagArray = info.Tags }
  for _, tag in ipairs(info.Tags) do
    if ao.env.Process.Tags[tag.name] == nil then ao.env.Process.Tags[tag.name] = tag.value end
    if tag.name:lower() == "name" then Name = tag.value end
    if tag.name:lower() == "authority" then
      for each in tag.value:gmatch("[^,%s]+") do ao.authorities[#ao.authorities + 1] = each end
    end
  end
  ao.authorities[#ao.authorities + 1] = info.Node
  ao.env.Module = { Id = info.Module, Tags = {} }
  msg = read(msg)
  return run(function()
    if boot == nil then return end
    local f, message = load(boot, "=boot", "t", _G)
    if not f then error(message, 0) end
    f()
  end)
end
package.loaded[".process"] = process
__ao = { boot = process.boot, handle = function(msg) return package.loaded[".process"].handle(msg) end }
