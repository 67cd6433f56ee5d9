-- @sam/Llama-Herder: paid answers from a herder.
--
--   APM.install("@sam/Llama-Herder")
--   Herder = require("@sam/Llama-Herder")
--   Herder.run("Once upon a time", 20, function(answer, msg) print(answer) end)
--
-- The callback gets the answer, or nil and why there is none: then the payment has come back, or never left.
local Herder = {
  _version = "1.0.0",
  token = "xU9zFkq3X2ZQ6olwNVvr1vUWIjc3kXTWr7xKQD6dh10",
  herder = "wh5vB2IbqmIBUqgodOaTvByNFDPr73gbUq1bVOUtCrw",
  feeBase = nil, feeToken = nil, lastMultiplier = nil, queueLength = nil, feeBump = 1.005,
}
local asked, n_asked = {}, 0       -- what is to be done with each answer, by its reference
local prices = {}                  -- who waits for the prices

local function words(prompt)
  local n = 0
  for _ in prompt:gmatch("%w+") do n = n + 1 end
  return n
end

-- What an answer will probably cost; known after `getPrices`.
function Herder.calculateFee(prompt, tokens, options)
  options = options or {}
  if options.Fee then return math.floor(tonumber(options.Fee)) end
  local fee = (Herder.feeBase + Herder.feeToken * (words(prompt) + tokens)) * Herder.lastMultiplier
  if Herder.queueLength > 0 then fee = fee * Herder.feeBump end
  return math.floor(fee * (tonumber(options.Multiplier) or 1))
end

function Herder.getPrices(done)
  prices[#prices + 1] = done or function() end
  Send({ Target = Herder.herder, Action = "Info" })
end

local function pay(prompt, tokens, callback, options)
  n_asked = n_asked + 1
  local reference = "Llama-Herder-" .. n_asked
  asked[reference] = callback or function(answer) print(answer) end
  Send({
    Target = Herder.token, Action = "Transfer", Recipient = Herder.herder,
    Quantity = ("%d"):format(Herder.calculateFee(prompt, tokens, options)),
    ["X-Prompt"] = prompt, ["X-Tokens"] = ("%d"):format(tokens), ["X-Reference"] = reference,
    ["X-Termination"] = options and options.Termination,
  })
  return reference
end

-- options: Fee, what is paid; or Multiplier, how many times the usual price. Termination: a text that ends the answer.
function Herder.run(prompt, tokens, callback, options)
  assert(type(prompt) == "string" and prompt:match("%S"), "run needs a prompt")
  tokens = math.tointeger(tonumber(tokens) or 0.5)
  assert(tokens and tokens >= 1, "run needs a number of tokens, 1 at least")
  if Herder.feeBase or (options and options.Fee) then return pay(prompt, tokens, callback, options) end
  Herder.getPrices(function() pay(prompt, tokens, callback, options) end)
end

local function ended(reference, ...)
  local callback = asked[reference]
  if not callback then return false end
  asked[reference] = nil
  callback(...)
  return true
end

Handlers.prepend("Llama-Herder.Info-Response", function(msg)
  return msg.Action == "Info-Response" and msg.From == Herder.herder
end, function(msg)
  Herder.feeBase, Herder.feeToken = tonumber(msg["Base-Fee"]), tonumber(msg["Token-Fee"])
  Herder.lastMultiplier, Herder.queueLength = tonumber(msg["Last-Multiplier"]), tonumber(msg["Queue-Length"])
  local waiting = prices
  prices = {}
  for _, done in ipairs(waiting) do done(Herder) end
end)

Handlers.prepend("Llama-Herder.Inference-Response", function(msg)
  return msg.Action == "Inference-Response" and msg.From == Herder.herder and asked[msg["X-Reference"]] ~= nil
end, function(msg)
  ended(msg["X-Reference"], msg.Data, msg)
end)

-- A payment that did not work, or that came back.
Handlers.prepend("Llama-Herder.Refused", function(msg)
  if msg.From ~= Herder.token or asked[msg["X-Reference"]] == nil then return false end
  return msg.Action == "Transfer-Error" or (msg.Action == "Credit-Notice" and msg.Sender == Herder.herder)
end, function(msg)
  ended(msg["X-Reference"], nil, msg["X-Reason"] or msg.Error or "refused", msg)
end)

return Herder
