-- `Llama`: a model that the host runs. What it has read and said is kept by the host, durably, with the process.
local function ask(...)
  local host = rawget(_G, "__host")
  if type(host) ~= "table" or type(host.llama) ~= "function" then error("Llama is not available here", 3) end
  return host.llama(...)
end
Llama = { _version = "1.0.0", logLevel = 4, endOfText = "" }

function Llama.onLog() end
function Llama.onProgress() end
function Llama.log(level, text)
  if level <= Llama.logLevel and type(Llama.onLog) == "function" then Llama.onLog(level, text) end
end
local function number(value, name)
  local found = math.tointeger(tonumber(value) or 0.5)
  if not found then error("Llama." .. name .. " takes a whole number, not " .. tostring(value), 3) end
  return found
end
local function text_of(value, name)
  if type(value) ~= "string" and type(value) ~= "number" then
    error("Llama." .. name .. " takes a text, not a " .. type(value), 3)
  end
  return tostring(value)
end

function Llama.info() return ask("info") end
function Llama.load(path)
  path = text_of(path, "load")
  local told = ask("load", (path:gsub("^/data/", "")))
  if type(Llama.onProgress) == "function" then Llama.onProgress(".") end
  Llama.log(4, told)
  return true
end
function Llama.loadModel(id, done)
  Llama.load(id)
  if done then done(id) end
  return true
end
function Llama.setPrompt(text) ask("prompt", text_of(text, "setPrompt")) return true end
function Llama.add(text) ask("add", text_of(text, "add")) return true end
function Llama.next()
  local piece = ask("say", 1)
  if piece == nil then
    Llama.log(5, "end of text")
    if Llama.endOfText == false then return nil end
    return Llama.endOfText
  end
  return piece
end
function Llama.run(n) return ask("say", number(n, "run")) or "" end
Llama.generate = Llama.run
function Llama.saveState() return ask("save") end
function Llama.loadState() return ask("restore") end
function Llama.clearState() return ask("clear") end
function Llama.setTemp(t)
  if type(tonumber(t)) ~= "number" then error("Llama.setTemp takes a number, not " .. tostring(t), 2) end
  return ask("temperature", tonumber(t) + 0.0)
end
function Llama.setSeed(n) return ask("seed", number(n, "setSeed")) end
function Llama.stop() return ask("stop") end
for snake, camel in pairs{ load_model = "loadModel", set_prompt = "setPrompt", save_state = "saveState",
    load_state = "loadState", clear_state = "clearState", set_temp = "setTemp", set_seed = "setSeed" } do
  Llama[snake] = Llama[camel]
end
package.loaded.llama, package.loaded.Llama, package.loaded["_llama"] = Llama, Llama, Llama

-- Packages, from the operator's folder ----------------------------------------------------------------------------------
apm = { _version = "1.0.0", installed = {} }
function apm.install(name)
  if type(name) ~= "string" then error("apm.install takes the name of a package, not a " .. type(name), 2) end
  local plain = name:match("^(@?[^@]+)@[^@/]+$") or name
  if package.preload[plain] then
    require(plain)
    apm.installed[plain] = "builtin"
    print("Installed " .. plain)
    return
  end
  local host = rawget(_G, "__host")
  if type(host) ~= "table" or type(host.package) ~= "function" then error("no packages are available here", 2) end
  local source = host.package(plain)
  local f, message = load(source, "=" .. plain, "t", _G)
  if not f then error("package " .. plain .. " does not compile: " .. tostring(message), 2) end
  local made = f()
  package.loaded[plain] = made == nil and true or made
  apm.installed[plain] = "folder"
  print("Installed " .. plain)
end
apm.update, apm.download = apm.install, apm.install
function apm.uninstall(name) package.loaded[name], apm.installed[name] = nil, nil end
function apm.list() return apm.installed end
APM = apm
package.loaded.apm = apm
