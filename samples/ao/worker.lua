-- A worker of a herder, as a program. Its owner initializes it with a model, and the herder's owner adds it:
--   Action = "Init", Model-ID = <id>                  to the worker
--   Action = "Add-Worker", Worker = <this process>    to the herder
HERDER = HERDER or "wh5vB2IbqmIBUqgodOaTvByNFDPr73gbUq1bVOUtCrw"
ModelID = ModelID or nil

Handlers.add("Init", { Action = "Init", From = Owner }, function(msg)
  ModelID = msg["Model-ID"]
  Llama.load("/data/" .. ModelID)
  msg.reply({ Action = "Worker-Initialized", ["Model-ID"] = ModelID })
end)

Handlers.add("Inference", { Action = "Inference", From = HERDER }, function(msg)
  local ok, answer = pcall(function()
    local left, text, ending = tonumber(msg.Tokens), "", msg.Termination
    Llama.setPrompt(msg.Data)
    while left > 0 do
      local piece = Llama.next()
      if piece == "" then break end
      text, left = text .. piece, left - 1
      local at = ending and ending ~= "" and text:find(ending, 1, true)
      if at then return text:sub(1, at - 1) end
    end
    return text
  end)
  local action = ok and "Inference-Response" or "Inference-Error"
  Send({ Target = msg.From, Action = action, ["X-Reference"] = msg["X-Reference"], Data = ok and answer or "",
    Error = not ok and tostring(answer) or nil })
end)
