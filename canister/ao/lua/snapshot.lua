-- A program's state as bytes, and back: what differs from the world that was there before it. Tables, texts, numbers,
-- and functions of the program's, which are dumped, with what they share. A state with anything else, as a coroutine that
-- waits, is refused. The bytes of equal states are equal: nothing in them depends on addresses or on the clock.
local library = ...
local getinfo, getupvalue, setupvalue = debug.getinfo, debug.getupvalue, debug.setupvalue
local upvalueid, upvaluejoin = debug.upvalueid, debug.upvaluejoin
local metatable_of, set_metatable = debug.getmetatable, debug.setmetatable
local error, next, rawequal, rawget, rawlen, rawset, type, load, pcall, collectgarbage =
  error, next, rawequal, rawget, rawlen, rawset, type, load, pcall, collectgarbage
local dump, pack, unpack, sub = string.dump, string.pack, string.unpack, string.sub
local concat, mathtype, list_of = table.concat, math.type, table.unpack
local ordered_keys, names = library.ordered_keys, library.names
-- What is written costs its program nothing, so it is bounded; by counts, as a run of the log must come to the same.
local MAX_BYTES = 32 << 20        -- of all parts
local MAX_CODE = 32 << 20         -- of all functions, each with its own: functions of one text share none of it afterwards
local MAX_BORDERS = 100000        -- elements that tables with holes are made with, together
local FLUSH = 500                 -- parts that are handed on together

local function refused(why) error(why, 0) end

-- All keys in one order; more than one that is neither text, number nor truth value has none.
local function keys_of(t)
  local keys, n, n_objects = ordered_keys(t)
  if n_objects and n_objects > 1 then refused("a table has several keys that are tables or functions") end
  if keys then return keys, n end
  keys, n = {}, 0
  for key in next, t do
    n = n + 1
    keys[n] = key
  end
  return keys, n
end

-- The world: its tables and functions have numbers, which are the same in each state that it is made in ----------------
local object_of, number_of, n_objects = {}, {}, 0
local contents, metatables = {}, {}             -- of its tables, by their numbers, as they were
local variables, places = {}, {}                -- which its functions share: in one order; by their identity
local named, at_name = {}, {}                   -- functions of the host's, which come later

local function is_host(f)
  local about = getinfo(f, "S")
  return about.what == "C" or about.source == "=host"
end
local function meet(value)
  local kind = type(value)
  if kind ~= "table" and kind ~= "function" or number_of[value] then return end
  n_objects = n_objects + 1
  object_of[n_objects], number_of[value] = value, n_objects
end
local function begin(env)
  meet(env)
  meet(metatable_of(""))
  local i = 0
  while i < n_objects do
    i = i + 1
    local object = object_of[i]
    if type(object) == "table" then
      local copy, keys, n = {}, keys_of(object)
      for k = 1, n do
        local value = rawget(object, keys[k])
        copy[keys[k]] = value
        meet(keys[k])
        meet(value)
      end
      contents[i], metatables[i] = copy, metatable_of(object)
      meet(metatables[i])
    elseif not is_host(object) then
      local place = 1
      local name, value = getupvalue(object, place)
      while name do
        local id = upvalueid(object, place)
        if not places[id] then
          local variable = { object = i, place = place, value = value }
          variables[#variables + 1], places[id] = variable, variable
          meet(value)
        end
        place = place + 1
        name, value = getupvalue(object, place)
      end
    end
  end
end
local function name(f, path)                    -- one of the host's
  if at_name[path] then named[at_name[path]] = nil end
  named[f], at_name[path] = path, f
end

-- Writing ----------------------------------------------------------------------------------------------------------------
local TEXTS, HEADS, BODIES, WORLD = 1, 2, 3, 4  -- parts of a snapshot, in the order in which they are read

local function is_changed(number)
  local t, before = object_of[number], contents[number]
  if metatable_of(t) ~= metatables[number] then return true end
  for key, value in next, t do
    if not rawequal(before[key], value) then return true end
  end
  for key in next, before do
    if rawget(t, key) == nil then return true end
  end
  return false
end

-- 0 where the length of a table is how many keys from 1 on it has, and cannot be another; else the length and 1.
local n_borders = 0
local function border_of(t, keys, n)
  local n_places = 0
  for i = 1, n do
    local key = keys[i]
    if mathtype(key) == "integer" and key > 0 then
      n_places = n_places + 1
      if key ~= n_places then
        local length = rawlen(t)
        n_borders = n_borders + length
        if n_borders > MAX_BORDERS then refused("long tables have holes") end
        return length + 1
      end
    end
  end
  return 0
end

local function write_all(write)
  local texts, n_texts, numbers, queue, n = {}, 0, {}, {}, 0
  local parts, counts, n_bytes, n_code = { {}, {}, {}, {} }, { 0, 0, 0, 0 }, 0, 0
  n_borders = 0
  local function flush(part)
    write(part, concat(parts[part], "", 1, counts[part]))
    counts[part] = 0
  end
  local function put(part, text)
    n_bytes = n_bytes + #text
    if n_bytes > MAX_BYTES then refused("its state takes more than " .. MAX_BYTES .. " bytes") end
    local count = counts[part] + 1
    parts[part][count], counts[part] = text, count
    if count >= FLUSH then flush(part) end
  end
  local function text_number(text)
    local known = texts[text]
    if not known then
      n_texts = n_texts + 1
      known, texts[text] = n_texts, n_texts
      put(TEXTS, pack("<s4", text))
    end
    return known
  end
  local function numbered(object)
    n = n + 1
    numbers[object], queue[n] = n, object
    if type(object) == "function" then
      if is_host(object) then refused("a function of the host's is kept, as an iterator that is under way") end
      local code = dump(object)
      n_code = n_code + #code
      if n_code > MAX_CODE then refused("its functions take more than " .. MAX_CODE .. " bytes") end
      put(HEADS, pack("<BI4", 70, text_number(code)))
    else
      local keys, n_keys = keys_of(object)
      put(HEADS, pack("<BI4", 84, border_of(object, keys, n_keys)))
    end
    return n
  end
  local function reference(value)
    local kind = type(value)
    if kind == "string" then return pack("<BI4", 115, text_number(value))
    elseif kind == "number" then
      if mathtype(value) == "integer" then return pack("<Bi8", 105, value) end
      return pack("<Bd", 100, value)
    elseif kind == "boolean" then return value and "T" or "F"
    elseif kind == "nil" then return "N"
    elseif kind == "table" or kind == "function" then
      local known = number_of[value]
      if known then return pack("<BI4", 98, known) end
      if named[value] then return pack("<BI4", 104, text_number(named[value])) end
      return pack("<BI4", 111, numbers[value] or numbered(value))
    end
    refused(kind == "thread" and "a coroutine is kept" or "an object of the host's is kept")
  end
  local function put_table(part, t)
    local keys, n_keys = keys_of(t)
    put(part, pack("<I4", n_keys))
    for i = 1, n_keys do
      put(part, reference(keys[i]))
      put(part, reference(rawget(t, keys[i])))
    end
    put(part, reference(metatable_of(t)))
  end

  local n_tables, n_variables = 0, 0
  for i = 1, n_objects do
    local object = object_of[i]
    if type(object) == "table" and is_changed(i) then
      local keys, n_keys = keys_of(object)
      put(WORLD, pack("<BI4I4", 84, i, border_of(object, keys, n_keys)))
      put_table(WORLD, object)
      n_tables = n_tables + 1
    end
  end
  for i = 1, #variables do
    local variable = variables[i]
    local _, value = getupvalue(object_of[variable.object], variable.place)
    if not rawequal(value, variable.value) then
      put(WORLD, pack("<BI4", 86, i))
      put(WORLD, reference(value))
      n_variables = n_variables + 1
    end
  end
  local shared, n_shared, done = {}, 0, 0
  while done < n do
    done = done + 1
    local object = queue[done]
    if type(object) == "table" then put_table(BODIES, object)
    else
      local place = 1
      local is_there, value = getupvalue(object, place)
      while is_there do
        local id = upvalueid(object, place)
        local of_world = places[id]
        if of_world then put(BODIES, pack("<BI4I4", 98, of_world.object, of_world.place))
        elseif shared[id] then put(BODIES, pack("<BI4", 99, shared[id]))
        else
          n_shared = n_shared + 1
          shared[id] = n_shared
          put(BODIES, "v")
          put(BODIES, reference(value))
        end
        place = place + 1
        is_there, value = getupvalue(object, place)
      end
      put(BODIES, ".")
    end
  end
  local function put_name(object)                 -- which a program may have seen
    local shown = names[object]
    if shown then
      put(WORLD, "=")
      put(WORLD, reference(object))
      put(WORLD, reference(shown))
    end
  end
  for i = 1, n_objects do put_name(object_of[i]) end
  local paths, n_paths = keys_of(at_name)
  for i = 1, n_paths do put_name(at_name[paths[i]]) end
  for i = 1, n do put_name(queue[i]) end
  put(WORLD, pack("<BI4", 35, library.n_named()))
  for part = 1, 4 do flush(part) end
end

-- Gives true, or nothing and the reason. write: takes the number of a part and bytes of it.
local function save(write)
  collectgarbage()                                -- what weak tables have then, they have whenever this is done again
  local ok, why = pcall(write_all, write)
  if ok then return true end
  return nil, type(why) == "string" and why or "it cannot be told"
end

-- Reading ----------------------------------------------------------------------------------------------------------------
local function with_border(length)                -- an empty table whose array ends there
  local filled = {}
  for i = 1, length do filled[i] = true end
  local t = { list_of(filled, 1, length) }
  for i = 1, length do t[i] = nil end
  return t
end
local function read_texts(data)
  local texts, n, at = {}, 0, 1
  while at <= #data do
    n = n + 1
    texts[n], at = unpack("<s4", data, at)
  end
  return texts
end
local function read_heads(data, texts)
  local objects, n, borders, at, kind, about = {}, 0, {}, 1, nil, nil
  while at <= #data do
    kind, about, at = unpack("<BI4", data, at)
    n = n + 1
    if kind == 70 then
      local f, why = load(texts[about], "=snapshot", "b", nil)
      if not f then error(why, 0) end
      objects[n] = f
    elseif about == 0 then objects[n] = {}
    else
      local t = with_border(about - 1)
      objects[n], borders[t] = t, about - 1
    end
  end
  return objects, borders
end
local function read_all(texts_data, heads, bodies, world)
  local texts = read_texts(texts_data)
  local objects, borders = read_heads(heads, texts)
  local finalizers, n_finalizers = {}, 0          -- they would run without the hook, so metatables get them at last
  local data, at
  local function reference()
    local kind = sub(data, at, at)
    local found
    at = at + 1
    if kind == "T" then return true elseif kind == "F" then return false elseif kind == "N" then return nil
    elseif kind == "i" then found, at = unpack("<i8", data, at) return found
    elseif kind == "d" then found, at = unpack("<d", data, at) return found end
    found, at = unpack("<I4", data, at)
    if kind == "s" then return texts[found]
    elseif kind == "b" then return object_of[found]
    elseif kind == "o" then return objects[found]
    elseif kind == "h" then return at_name[texts[found]] end
    error("no value is there", 0)
  end
  local function fill(t)
    local n_keys
    n_keys, at = unpack("<I4", data, at)
    for _ = 1, n_keys do
      local key = reference()
      local value = reference()
      if key == "__gc" then
        n_finalizers = n_finalizers + 1
        finalizers[n_finalizers] = { t, value }
      else rawset(t, key, value) end
    end
    set_metatable(t, reference())
  end
  data, at = bodies, 1
  local owners, n_owned = {}, 0
  for i = 1, #objects do
    local object = objects[i]
    if type(object) == "table" then fill(object)
    else
      local place = 1
      while true do
        local kind = sub(data, at, at)
        at = at + 1
        if kind == "." then break
        elseif kind == "v" then
          setupvalue(object, place, reference())
          n_owned = n_owned + 1
          owners[n_owned] = { object, place }
        elseif kind == "c" then
          local found
          found, at = unpack("<I4", data, at)
          upvaluejoin(object, place, owners[found][1], owners[found][2])
        else
          local of, its
          of, its, at = unpack("<I4I4", data, at)
          upvaluejoin(object, place, object_of[of], its)
        end
        place = place + 1
      end
    end
  end
  data, at = world, 1
  while at <= #data do
    local kind, number = sub(data, at, at), nil
    at = at + 1
    if kind == "=" then
      local object = reference()
      names[object] = reference()
    else
      number, at = unpack("<I4", data, at)
      if kind == "T" then
        local t, border = object_of[number], nil
        border, at = unpack("<I4", data, at)
        for key in next, t do rawset(t, key, nil) end
        fill(t)
        if border > 0 then borders[t] = border - 1 end
      elseif kind == "V" then
        setupvalue(object_of[variables[number].object], variables[number].place, reference())
      else library.n_named(number) end
    end
  end
  for i = 1, n_finalizers do rawset(finalizers[i][1], "__gc", finalizers[i][2]) end
  for t, border in next, borders do
    if rawlen(t) ~= border then error("a table with holes gets another length", 0) end
  end
end

-- In a state of the same world in which no program has run. Gives true, or nothing and the reason; it is spoiled then.
local function restore(texts, heads, bodies, world)
  local ok, why = pcall(read_all, texts, heads, bodies, world)
  collectgarbage()                                -- so that the memory that is left is the state's
  if ok then return true end
  return nil, type(why) == "string" and why or "it cannot be read"
end

return { begin = begin, name = name, save = save, restore = restore }
