-- What a program sends. It gathers in `ao.outbox`, and leaves when the message is done; nothing leaves after an error.
local utils, json = require(".utils"), require("json")
ao = {
  _version = "0.0.6", id = "", _module = "", authorities = {}, assignables = {}, reference = 0,
  env = { Process = { Id = "", Owner = "", Tags = {} }, Module = { Id = "", Tags = {} } },
  outbox = { Output = {}, Messages = {}, Spawns = {}, Assignments = {} },
}
local OWN = {}                    -- fields of a message that are no tags
for _, name in ipairs{ "target", "data", "anchor", "tags", "tagarray", "from", "owner", "id", "timestamp", "block-height",
    "nonce", "epoch", "module", "cron", "hash-chain", "signature", "data-protocol", "variant", "type", "from-process",
    "from-module", "pushed-for", "reference", "read-only" } do
  OWN[name] = true
end
local patches = {}

local function as_text(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "table" and not (getmetatable(value) and getmetatable(value).__tostring) then return json.encode(value) end
  return tostring(value)
end
local function add_tags(tags, given)
  if given == nil then return end
  if type(given) ~= "table" then error("Tags are a table", 0) end
  for key, value in pairs(given) do
    if type(key) == "number" then
      if type(value) == "table" and value.name ~= nil then
        tags[#tags + 1] = { name = tostring(value.name), value = as_text(value.value == nil and "" or value.value) }
      end
    elseif type(value) ~= "function" then tags[#tags + 1] = { name = key, value = as_text(value) } end
  end
end
local function add_fields(tags, msg)
  for key, value in pairs(msg) do
    if type(key) == "string" and not OWN[key:lower()] and type(value) ~= "function" then
      tags[#tags + 1] = { name = key, value = as_text(value) }
    end
  end
end
local function next_reference()
  ao.reference = ao.reference + 1
  return tostring(ao.reference)
end
local function padded(text) return ("0"):rep(32 - #text) .. text end
local function data_of(msg, tags)
  local data = msg.Data
  if data == nil then return "" end
  if type(data) == "table" and not (getmetatable(data) and getmetatable(data).__tostring) then
    tags[#tags + 1] = { name = "Content-Type", value = "application/json" }
  end
  return as_text(data)
end
local function answered(made, told, pattern)
  made.onReply = function(from, f)
    if f == nil then from, f = nil, from end
    Handlers.once(pattern(from), f)
    return made
  end
  made.receive = function(from) return Handlers.receive(pattern(from)) end
  return setmetatable(made, { __tostring = function() return told end })   -- what a console shows
end

function ao.send(msg)
  if type(msg) ~= "table" then error("a message is a table, not a " .. type(msg), 2) end
  local device = msg.device or msg.Device
  if device == "patch@1.0" then
    local fields = {}
    for key, value in pairs(msg) do
      if key ~= "device" and key ~= "Device" and type(value) ~= "function" then fields[key] = value end
    end
    patches[#patches + 1] = fields
    return msg
  end
  if type(msg.Target) ~= "string" or msg.Target == "" then error("a message needs a Target, which is a text", 2) end
  local reference = next_reference()
  local tags = {
    { name = "Data-Protocol", value = "ao" }, { name = "Variant", value = "ao.TN.1" }, { name = "Type", value = "Message" },
    { name = "Reference", value = reference },
  }
  add_fields(tags, msg)
  add_tags(tags, msg.Tags)
  local sent = { Target = msg.Target, Data = data_of(msg, tags), Anchor = padded(reference), Tags = tags }
  ao.outbox.Messages[#ao.outbox.Messages + 1] = sent
  local expected = reference
  for _, tag in ipairs(tags) do if tag.name:lower() == "x-reference" then expected = tag.value break end end
  local made = { Target = sent.Target, Data = sent.Data, Anchor = sent.Anchor, Tags = tags }
  return answered(made, "Message added to outbox", function(from)
    return { From = from or sent.Target, ["X-Reference"] = function(value) return value == expected end }
  end)
end

function ao.spawn(module, msg)
  if type(module) ~= "string" or module == "" then error("ao.spawn needs the id of a module, which is a text", 2) end
  if type(msg) ~= "table" then error("a message is a table, not a " .. type(msg), 2) end
  local reference = next_reference()
  local tags = {
    { name = "Data-Protocol", value = "ao" }, { name = "Variant", value = "ao.TN.1" }, { name = "Type", value = "Process" },
    { name = "Module", value = module }, { name = "Reference", value = reference },
  }
  add_fields(tags, msg)
  add_tags(tags, msg.Tags)
  local has_authority = false
  for _, tag in ipairs(tags) do has_authority = has_authority or tag.name:lower() == "authority" end
  if not has_authority then
    for _, authority in ipairs(ao.authorities) do tags[#tags + 1] = { name = "Authority", value = authority } end
  end
  local made = { Data = data_of(msg, tags), Anchor = padded(reference), Tags = tags }
  ao.outbox.Spawns[#ao.outbox.Spawns + 1] = made
  local told = "Spawn process request added to outbox"
  return answered({ Data = made.Data, Anchor = made.Anchor, Tags = tags }, told, function()
    return { Action = "Spawned", Reference = function(value) return value == reference end }
  end)
end

function ao.assign(given)
  if type(given) ~= "table" or type(given.Processes) ~= "table" or type(given.Message) ~= "string" then
    error("ao.assign takes { Processes = { ids }, Message = id }", 2)
  end
  ao.outbox.Assignments[#ao.outbox.Assignments + 1] = { Processes = given.Processes, Message = given.Message }
end

function ao.log(text)
  local output = ao.outbox.Output
  if type(output) ~= "table" then output = {} ao.outbox.Output = output end
  output[#output + 1] = text
end

local function listed(list, value)
  for _, each in ipairs(list) do if each == value then return true end end
  return false
end
function ao.isTrusted(msg) return listed(ao.authorities, msg.From) or listed(ao.authorities, msg.Owner) end
function ao.isAssignment(msg) return msg.Target ~= ao.id end
function ao.addAssignable(...)
  if select("#", ...) == 1 then ao.assignables[#ao.assignables + 1] = { pattern = (...) } return end
  local name, pattern = ...
  ao.removeAssignable(name)
  ao.assignables[#ao.assignables + 1] = { name = name, pattern = pattern }
end
function ao.removeAssignable(name)
  for i, each in ipairs(ao.assignables) do
    if each.name == name or i == name then table.remove(ao.assignables, i) return end
  end
end
function ao.isAssignable(msg)
  for _, each in ipairs(ao.assignables) do
    local found = utils.matchesSpec(msg, each.pattern)
    if found and found ~= 0 and found ~= "skip" then return true end
  end
  return false
end

function ao.clone(value, seen)
  if type(value) ~= "table" then return value end
  seen = seen or {}
  if seen[value] then return seen[value] end
  local copy = {}
  seen[value] = copy
  for key, each in pairs(value) do copy[ao.clone(key, seen)] = ao.clone(each, seen) end
  return setmetatable(copy, getmetatable(value))
end
function ao.sanitize(msg)
  local copy = ao.clone(msg)
  for key in pairs(msg) do
    if type(key) == "string" and OWN[key:lower()] and key ~= "Data" and key ~= "Tags" then copy[key] = nil end
  end
  return copy
end
function ao.normalize(msg)
  for _, tag in ipairs(msg.TagArray or msg.Tags or {}) do
    if not OWN[tag.name:lower()] and rawget(msg, tag.name) == nil then msg[tag.name] = tag.value end
  end
  return msg
end
function ao.clearOutbox()
  ao.outbox = { Output = {}, Messages = {}, Spawns = {}, Assignments = {} }
  patches = {}
end
function ao.result(given)
  given = given or {}
  local failure = given.Error or ao.outbox.Error
  if failure then return { Error = failure } end
  return {
    Output = given.Output or ao.outbox.Output, Messages = given.Messages or ao.outbox.Messages,
    Spawns = given.Spawns or ao.outbox.Spawns, Assignments = given.Assignments or ao.outbox.Assignments,
    Patches = patches,
  }
end

Send, Spawn, Assign = ao.send, ao.spawn, ao.assign
function Receive(pattern) return Handlers.receive(pattern) end
package.loaded.ao, package.loaded[".ao"] = ao, ao
