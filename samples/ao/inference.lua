-- A service that answers `Infer`, as clients of @apus/ai ask it: Data is the prompt, X-Reference comes back.
--   X-Options = '{"max_tokens": 40, "temp": 0, "seed": 1}'; X-Session goes on with what was said before.
local json = require("json")
MODEL = MODEL or "tiny"
MOST_TOKENS = 200
MOST_SESSIONS = 100
Sessions = Sessions or {}          -- what was said in each, oldest first in Order
Order = Order or {}

local function whole(value, default, most)
  local found = math.tointeger(tonumber(value) or default)
  return found and math.max(1, math.min(found, most)) or default
end
local function remember(session, text)
  if Sessions[session] == nil then
    Order[#Order + 1] = session
    if #Order > MOST_SESSIONS then Sessions[table.remove(Order, 1)] = nil end
  end
  Sessions[session] = text
end

local is_loaded = false
function Answer(prompt, options, session)
  if not is_loaded then
    Llama.load("/data/" .. MODEL)
    is_loaded = true
  end
  local before = session and Sessions[session] or ""
  Llama.setTemp(tonumber(options.temp) or 0)
  Llama.setSeed(whole(options.seed, 1, 2 ^ 31))
  Llama.setPrompt(before .. prompt)
  local text = Llama.run(whole(options.max_tokens, 40, MOST_TOKENS))
  if session then remember(session, before .. prompt .. text) end
  return text
end

Handlers.add("Infer", "Infer", function(msg)
  local reference, session = msg["X-Reference"], msg["X-Session"]
  local ok, found = pcall(function()
    local options = json.decode(msg["X-Options"] or "{}")
    assert(type(options) == "table", "X-Options is an object")
    assert(msg.Data ~= "", "the prompt is empty")
    return Answer(msg.Data, options, session)
  end)
  if ok then
    msg.reply({ Action = "Infer-Response", ["X-Reference"] = reference, ["X-Session"] = session, Data = json.encode({ result = found }) })
  else
    msg.reply({ Action = "Infer-Response", ["X-Reference"] = reference, ["X-Session"] = session, Code = "400", Message = tostring(found) })
  end
end)
