-- Llama King: petitions for LLAMA. His banker takes 1 LLAMA with each, his grader is the model, his mood is his own.
local bint, json = require(".bint")(256), require("json")
LLAMA_TOKEN = LLAMA_TOKEN or "xU9zFkq3X2ZQ6olwNVvr1vUWIjc3kXTWr7xKQD6dh10"
MODEL = MODEL or "ISrbGzQot05rs_HKC08O_SmkipYQnqgB1yC3mjZZeEo"
CHAT = CHAT or nil
PRICE = PRICE or "1000000000000"
PER_DAY = PER_DAY or 3             -- petitions of one sender in 23 hours
LIFETIME_MS = 600 * 1000           -- of a petition that nobody has graded
CAP = 11111111
PIECES = 80
Petitions = Petitions or {}        -- times, by sender
Pending = Pending or {}

local SYSTEM = "You are a king. Answer a petition in one sentence, and grade it from 0 to 5, as JSON: " ..
  '{"response": "...", "grade": 1}'
local is_ready = false
local function ready()
  if is_ready then return end
  Llama.load("/data/" .. MODEL)
  Llama.setPrompt("<|system|>\n" .. SYSTEM .. "<|end|>\n<|user|>\n")
  Llama.saveState()
  is_ready = true
end

local function refund(msg, why)
  Send({ Target = LLAMA_TOKEN, Action = "Transfer", Recipient = msg.Sender, Quantity = msg.Quantity, ["X-Reason"] = why })
end

-- The first object with a response and a grade from 0 to 5.
function ReadGrade(text)
  for object in text:gmatch("%b{}") do
    local ok, found = pcall(json.decode, object)
    if ok and type(found) == "table" and type(found.response) == "string" then
      local grade = math.tointeger(tonumber(found.grade) or -1)
      if grade and grade >= 0 and grade <= 5 then return found.response, grade end
    end
  end
  return "The king has nothing to say.", 1
end

function Mood()
  local mood = math.random(4, 9)
  return mood == 4 and 1 or mood == 9 and 10 or mood
end

function Reward(grade, uniqueness, mood)
  local base = grade == 0 and 0 or grade + 1
  return math.min(base * math.max(1, math.ceil(uniqueness or 1)) * mood, CAP)
end

local function recent(sender, now)
  local kept = {}
  for _, at in ipairs(Petitions[sender] or {}) do
    if now - at < 23 * 3600 * 1000 then kept[#kept + 1] = at end
  end
  Petitions[sender] = kept
  return kept
end

function Grade(petition)
  ready()
  Llama.loadState()
  Llama.add(petition:gsub("[<|>]", "") .. "<|end|>\n<|assistant|>\n")
  return ReadGrade(Llama.run(PIECES))
end

local function judge(petition, uniqueness)
  local response, grade = Grade(petition.text)
  local reward = Reward(grade, uniqueness, Mood())
  if reward > 0 then
    Send({
      Target = LLAMA_TOKEN, Action = "Transfer", Recipient = petition.sender,
      Quantity = tostring(bint(PRICE) * reward), ["X-Grade"] = tostring(grade),
    })
  end
  Send({
    Target = CHAT or petition.sender, Action = "ChatMessage", ["Author-Name"] = "Llama King",
    Data = petition.name .. ", " .. response, Grade = tostring(grade), Reward = tostring(reward),
  })
end

-- The banker.
Handlers.add("Pay", { Action = "Credit-Notice", From = LLAMA_TOKEN }, function(msg)
  local text, name = msg["X-Petition"], msg["X-Sender-Name"]
  if not bint.eq(bint(msg.Quantity), bint(PRICE)) then return refund(msg, "A petition costs " .. PRICE) end
  if type(text) ~= "string" or #text < 1 or #text > 250 then return refund(msg, "X-Petition has 1 to 250 characters") end
  if type(name) ~= "string" or #name < 1 or #name > 20 then return refund(msg, "X-Sender-Name has 1 to 20 characters") end
  local times = recent(msg.Sender, msg.Timestamp)
  if #times >= PER_DAY then return refund(msg, "The king hears nobody more than " .. PER_DAY .. " times a day") end
  times[#times + 1] = msg.Timestamp
  Pending[#Pending + 1] = { text = text, name = name, sender = msg.Sender, at = msg.Timestamp }
  Send({ Target = ao.id, Action = "Llama-King.Petition" })
end)

-- The king, one petition a message.
Handlers.add("Hear", function(msg)
  return msg.From == ao.id and (msg.Action == "Llama-King.Petition" or msg.Action == "Petition")
end, function(msg)
  local petition = table.remove(Pending, 1)
  if not petition then return end
  if msg.Timestamp - petition.at > LIFETIME_MS then
    Send({ Target = LLAMA_TOKEN, Action = "Transfer", Recipient = petition.sender, Quantity = PRICE, ["X-Reason"] = "Too late" })
    return
  end
  judge(petition, tonumber(msg.Uniqueness))
end)
