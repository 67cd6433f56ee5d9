-- Llama Oracle: bet 1 to 10 LLAMA on High or Low (X-JokeTopic); half of all bets win, and are paid one and a half times.
local bint = require(".bint")(256)
LLAMA_TOKEN = LLAMA_TOKEN or "xU9zFkq3X2ZQ6olwNVvr1vUWIjc3kXTWr7xKQD6dh10"
CHAT = CHAT or nil
UNIT = bint(UNIT or "1000000000000")
MIN, MAX = UNIT, UNIT * 10

local function pay(msg, quantity, why)
  Send({ Target = LLAMA_TOKEN, Action = "Transfer", Recipient = msg.Sender, Quantity = tostring(quantity), ["X-Reason"] = why })
end
local function say(msg, text)
  Send({ Target = CHAT or msg.Sender, Action = "ChatMessage", ["Author-Name"] = "Llama Oracle", Data = text })
end

Handlers.add("Bet", { Action = "Credit-Notice", From = LLAMA_TOKEN }, function(msg)
  local bet, word = bint(msg.Quantity), (msg["X-JokeTopic"] or ""):lower()
  if bint.lt(bet, MIN) or bint.lt(MAX, bet) then return pay(msg, bet, "Bets are from 1 to 10 LLAMA") end
  if word ~= "high" and word ~= "low" then return pay(msg, bet, "Bet on High or on Low") end
  local drawn = math.random(1, 2) == 1 and "high" or "low"
  if drawn ~= word then return say(msg, "The llama looks " .. drawn .. ". You said " .. word .. ".") end
  pay(msg, bet * 3 // 2, "The oracle has spoken")
  say(msg, "The llama looks " .. drawn .. ". You were right.")
end)
