-- Chatbot: hears what a chat room broadcasts, and now and then says something to it.
APM.install("@sam/Llama-Herder")
local Herder = require("@sam/Llama-Herder")
CHAT = CHAT or nil                 -- the room; it broadcasts what is said there
BOT_NAME = BOT_NAME or "Llama"
Heard = Heard or {}
is_busy = false

local function prompt()
  local lines = {}
  for _, each in ipairs(Heard) do lines[#lines + 1] = each.name .. ": " .. each.text end
  return table.concat(lines, "\n") .. "\n" .. BOT_NAME .. ":"
end
function CutAnswer(text)
  return (text:gsub("STOP.*", ""):gsub("\n.*", ""):gsub("^%s+", ""):gsub("%s+$", ""))
end

Handlers.add("Hear", function(msg)
  return msg.Action == "Broadcasted" and CHAT ~= nil and msg.From == CHAT
end, function(msg)
  local name = msg["Author-Name"] or msg.Sender or "somebody"
  Heard[#Heard + 1] = { name = name, text = tostring(msg.Data):gsub("\n", " ") }
  while #Heard > 4 do table.remove(Heard, 1) end
  if name == BOT_NAME or is_busy then return end
  is_busy = true
  Herder.run(prompt(), 15, function(answer)
    is_busy = false
    local text = answer and CutAnswer(answer) or ""
    if text ~= "" then Send({ Target = CHAT, Action = "Broadcast", ["Author-Name"] = BOT_NAME, Data = text }) end
  end)
end)
