-- Sentiment agent: at each tick of its timer it reads the last words of a chat, and buys when they are kind.
--   Spawn it with Cron-Interval, Cron-Tag-Action = "Cron", and set CHAT.
APM.install("@sam/Llama-Herder")
local Herder = require("@sam/Llama-Herder")
CHAT = CHAT or nil
EXCHANGE = EXCHANGE or nil         -- who takes the order
AMOUNT = AMOUNT or "1"
Grades = Grades or {}

Handlers.add("Tick", "Cron", function()
  if CHAT then Send({ Target = CHAT, Action = "ChatHistory", Limit = "3" }) end
end)

function ReadSentiment(text)
  local grade = tonumber(text:match("[1-5]"))
  return grade or 0
end

Handlers.add("Read", function(msg)
  return msg.Action == "ChatHistory-Response" and CHAT ~= nil and msg.From == CHAT
end, function(msg)
  Herder.run(msg.Data .. "\nGrade sentiment 1 to 5: ", 10, function(answer)
    local grade = answer and ReadSentiment(answer) or 0
    Grades[#Grades + 1] = grade
    if grade > 3 and EXCHANGE then Send({ Target = EXCHANGE, Action = "Buy", Quantity = AMOUNT }) end
  end)
end)
