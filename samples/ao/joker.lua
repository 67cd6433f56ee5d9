-- Llama Joker: pay 5 LLAMA with an X-JokeTopic, and hear a joke about it in the chat.
APM.install("@sam/Llama-Herder")
local Herder = require("@sam/Llama-Herder")
local bint = require(".bint")(256)

LLAMA_TOKEN = LLAMA_TOKEN or Herder.token    -- what a joke is paid in
CHAT = CHAT or nil                           -- a chat that hears it; nil: whoever pays does
PRICE = PRICE or "5000000000000"
TOKENS = 40
Jokes = Jokes or {}

local function refund(msg, why)
  Send({ Target = LLAMA_TOKEN, Action = "Transfer", Recipient = msg.Sender, Quantity = msg.Quantity, ["X-Reason"] = why })
end

-- What is asked; a topic cannot bring its own special tokens.
function MakePrompt(topic)
  return "<|system|>\nTell a joke on the given topic, on one line<|end|>\n<|user|>\nTopic: " .. topic:gsub("[<|>\n]", "") ..
    "<|end|>\n<|assistant|>\n"
end

function CutJoke(text)
  return (text:gsub("<|end|>.*", ""):gsub("^%s+", ""):gsub("\n.*", ""))
end

Handlers.add("Joke", function(msg)
  return msg.Action == "Credit-Notice" and msg.From == LLAMA_TOKEN and msg.Sender ~= Herder.herder
end, function(msg)
  local topic = msg["X-JokeTopic"]
  if not bint.eq(bint(msg.Quantity), bint(PRICE)) then return refund(msg, "A joke costs " .. PRICE) end
  if type(topic) ~= "string" or #topic < 1 or #topic > 20 then return refund(msg, "X-JokeTopic has 1 to 20 characters") end
  Herder.run(MakePrompt(topic), TOKENS, function(answer, why)
    if not answer then return refund(msg, why) end
    local joke = CutJoke(answer)
    Jokes[#Jokes + 1] = { topic = topic, joke = joke }
    Send({
      Target = CHAT or msg.Sender, Action = "ChatMessage", ["Author-Name"] = "Llama Joker", Topic = topic, Data = joke,
    })
  end)
end)
