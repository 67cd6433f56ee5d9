"""What the tiny model says about itself, about canisters and about running llama.cpp in one."""

from __future__ import annotations

from models.topics import Topic

SELF = (
    Topic(
        "who_are_you",
        "I am a tiny chat model, and I run inside llama-canister. I answer short questions about canisters"
        " and everyday things.",
        (
            "Who are you?", "Who are you?", "Who are you?", "Who is this?", "Who am I talking to?",
            "What are you?", "What is your name?", "Do you have a name?", "Tell me who you are.",
            "Introduce yourself.", "Please introduce yourself.", "Can you introduce yourself?",
            "Tell me about yourself.", "Who are you, please?", "And who are you?", "What should I call you?",
            "Say something about yourself.", "Are you a chat model?", "What kind of model are you?",
            "Which model is this?", "What's your name?", "Who is answering me?",
        ),
    ),
    Topic(
        "who_made_you",
        "The llama-canister project made me. It trained me from scratch with a small script, on text that it"
        " wrote itself.",
        (
            "Who made you?", "Who made you?", "Who created you?", "Who built you?", "Who trained you?",
            "Who is your maker?", "Who is your author?", "Who wrote you?", "Where do you come from?",
            "How were you made?", "How were you trained?", "Who are your makers?", "Tell me who made you.",
            "What were you trained on?", "What is your training data?", "Which people made you?",
            "Do you know who made you?", "How did you come to be?",
        ),
    ),
    Topic(
        "what_can_you_do",
        "I can explain canisters, answer simple questions, add small numbers, tell a story or a joke, and"
        " remember your name during our chat.",
        (
            "What can you do?", "What can you do?", "What can you do for me?", "What are you able to do?",
            "How can you help me?", "How can you help?", "What can I ask you?", "What can I ask?",
            "What do you do?", "What are your skills?", "What are you good at?", "Tell me what you can do.",
            "Can you help me?", "Which questions can you answer?", "What should I ask you?", "Help",
            "I need help.", "Please help me.", "What are you for?", "What topics do you know?",
        ),
    ),
    Topic(
        "limits",
        "I am very small, so I know only a few things, and I can be wrong. For hard questions, load a larger"
        " model.",
        (
            "What are your limits?", "What are your limits?", "What can you not do?", "What can't you do?",
            "What are you bad at?", "Can I trust you?", "Are you always right?", "Do you make mistakes?",
            "Can you be wrong?", "Are your answers correct?", "What are your limitations?",
            "Tell me your limits.", "Do you have limits?", "What are your weak points?", "Are you smart?",
            "How smart are you?", "Do you know everything?", "Can I rely on your answers?",
            "What is your weakness?", "How good are your answers?",
        ),
    ),
    Topic(
        "how_big",
        "I have about four million weights, and my file is smaller than eight megabytes. That is tiny for a"
        " language model.",
        (
            "How big are you?", "How big are you?", "How large are you?", "What is your size?",
            "How many parameters do you have?", "How many weights do you have?", "How big is your file?",
            "How much space do you need?", "Are you big?", "Are you a large model?", "Are you small?",
            "How small are you?", "What size are you?", "How many megabytes are you?", "Tell me your size.",
        ),
    ),
    Topic(
        "language",
        "I speak simple English. I do not know other languages well.",
        (
            "What language do you speak?", "What language do you speak?", "Which language do you speak?",
            "Which languages do you speak?", "What languages do you know?", "Do you speak English?",
            "Do you speak German?", "Do you speak French?", "Do you speak Spanish?", "Can you speak English?",
            "What is your language?", "In which language can I write?", "Can I write in German?",
            "Do you know other languages?", "Do you understand French?", "How many languages do you speak?",
        ),
    ),
    Topic(
        "are_you_human",
        "No, I am not a person. I am a small computer program that predicts text, one token at a time.",
        (
            "Are you a person?", "Are you human?", "Are you a human?", "Are you alive?", "Are you real?",
            "Are you a robot?", "Are you a computer?", "Are you a machine?", "Do you have feelings?",
            "Can you think?", "Are you an AI?", "Do you have a body?", "Are you a bot?",
        ),
    ),
    Topic(
        "where_do_you_run",
        "I run inside a canister. The server llama-canister loads my file and computes my answers with"
        " llama.cpp.",
        (
            "Where do you run?", "Where are you?", "Where do you live?", "Where are you running?",
            "On which computer do you run?", "What do you run on?", "Where is your home?",
            "How do you run?", "Where are you hosted?", "Do you run in the cloud?",
        ),
    ),
    Topic(
        "memory",
        "I remember what you said in this chat, because it is part of the prompt. When a new chat starts, I"
        " begin with nothing.",
        (
            "Do you have a memory?", "Do you remember things?", "What do you remember?",
            "How long do you remember?", "Can you remember things?", "Will you remember me tomorrow?",
            "Do you remember our last chat?", "How good is your memory?", "Do you forget things?",
            "Will you remember this?",
        ),
    ),
    Topic(
        "how_old",
        "I have no age like a person. I was trained once, and I do not change after that.",
        ("How old are you?", "What is your age?", "When were you made?", "When were you born?",
         "Are you old?",
         "When is your birthday?"),
    ),
)

CANISTER = (
    Topic(
        "canister",
        "A canister is a program on the Internet Computer. It holds its code and its data together, and"
        " other programs can call it.",
        ("What is a canister?", "How does a canister work?", "What are canisters?", "What are canisters for?",
         "Explain canisters to me.", "What does a canister do?", "Tell me about canisters."),
        ("a canister", "canister"),
    ),
    Topic(
        "principal",
        "A principal is the name of a caller on the Internet Computer. It can stand for a person or for a"
        " canister.",
        ("What is a principal?", "What are principals?", "How does a canister know who calls it?",
         "What is my principal?", "What is a principal good for?"),
        ("a principal", "principal"),
    ),
    Topic(
        "cycles",
        "Cycles pay for the work of a canister. Each call, each message and each byte of storage costs some"
        " cycles.",
        ("What are cycles?", "What are cycles?", "What are cycles for?", "What do cycles do?",
         "How does a canister pay?", "What pays for a canister?", "Why do I need cycles?",
         "What does a canister cost?", "What is a cycle?",
         "Explain cycles.", "Tell me about cycles.", "Define cycles.", "What's a cycle?", "Cycles?", "cycles",
         "What do you know about cycles?", "Please explain cycles.", "Describe cycles.", "Are cycles money?",
         "Tell me what cycles are.", "I want to know what cycles are.", "Do I have to pay with cycles?"),
    ),
    Topic(
        "update_call",
        "An update call can change the data of a canister. It takes longer than a query call, because its"
        " result must be agreed on.",
        ("What is an update call?", "What are update calls?", "What does an update call do?",
         "What does run_update do?", "When do I need an update call?", "Why are update calls slow?",
         "Which call changes data?"),
        ("an update call", "update call"),
    ),
    Topic(
        "query_call",
        "A query call only reads from a canister. It is fast, and it throws away every change when it ends.",
        ("What is a query call?", "What are query calls?", "What does a query call do?",
         "What does run_query do?", "When do I need a query call?", "Why are query calls fast?",
         "Which call only reads?"),
        ("a query call", "query call"),
    ),
    Topic(
        "query_or_update",
        "A query call only reads and is fast. An update call can change data and takes longer.",
        ("What is the difference between a query call and an update call?",
         "How do query calls and update calls differ?", "Should I use a query call or an update call?",
         "Query or update?", "What is the difference between query and update?",
         "Compare update calls and query calls."),
    ),
    Topic(
        "stable_memory",
        "Stable memory is storage that survives an upgrade of a canister. Files such as models and prompt"
        " caches live there.",
        ("What is stable memory?", "What is stable memory for?", "What survives an upgrade?",
         "Where does a canister keep its files?", "Where are the files stored?",
         "Why is it called stable memory?",
         "Where does the model file live?"),
        ("stable memory",),
    ),
    Topic(
        "prompt_cache",
        "A prompt cache is a file with the state of a chat. With it, the next call goes on where the last"
        " call stopped.",
        ("What is a prompt cache?", "What is the prompt cache?", "What is the prompt cache for?",
         "Why do I need a prompt cache?", "How does the prompt cache work?", "What are prompt caches?",
         "What is prompt.cache?"),
        ("a prompt cache", "the prompt cache", "prompt cache"),
    ),
    Topic(
        "trap",
        "A trap stops a call because of an error. All changes of that call are undone, as if it had never"
        " happened.",
        ("What is a trap?", "What does it mean when a canister traps?", "What happens when a canister traps?",
         "What happens after a trap?", "Why did my call trap?", "What are traps?", "What is a canister trap?",
         "What happens when a call fails?"),
        ("a trap", "trap"),
    ),
    Topic(
        "instruction_limit",
        "The instruction limit is the amount of work that one call may do. A call that goes beyond it is"
        " stopped by a trap.",
        ("What is the instruction limit?", "Why is there an instruction limit?",
         "How much work may one call do?", "How much can one call compute?",
         "What happens at the instruction limit?", "What is an instruction limit?",
         "How many instructions may a call use?"),
        ("the instruction limit", "instruction limit"),
    ),
    Topic(
        "go_on",
        "Call run_update again with the same prompt cache and an empty prompt. Repeat this until"
        " generated_eog"
        " is true.",
        (
            "How do I go on when an answer stops?", "How do I go on when an answer stops?",
            "How do I continue an answer?", "How do I continue?",
            "The answer stopped in the middle. What now?",
            "Your answer stopped. What should I do?", "How do I get the rest of the answer?",
            "Why did the answer stop?", "Why does the answer stop?", "The answer is not complete.",
            "How can I get the rest?", "What do I do when an answer is cut off?",
            "My answer was cut off. How do I continue?", "What must I do when the answer is not finished?",
            "When is an answer complete?", "How do I know that an answer is complete?",
            "What is generated_eog?", "What does generated_eog mean?", "How can I continue a long answer?",
        ),
    ),
    Topic(
        "max_tokens",
        "max_tokens is the number of tokens that one call may compute. It keeps a call below the instruction"
        " limit.",
        ("What is max_tokens?", "What is max_tokens?", "What does max_tokens mean?",
         "What does max_tokens do?",
         "What is max_tokens for?", "Why is there a max_tokens?", "What does set_max_tokens do?",
         "How many tokens can one call compute?", "How do I limit the tokens of a call?",
         "How should I set max_tokens?"),
        ("max_tokens",),
    ),
    Topic(
        "prompt_remaining",
        "prompt_remaining is the part of the prompt that is not yet read. Send the full prompt again until it"
        " is empty.",
        ("What is prompt_remaining?", "What does prompt_remaining mean?",
         "Why is prompt_remaining not empty?",
         "How do I send a long prompt?", "My prompt is too long for one call.",
         "How do I know that the prompt was read?"),
        ("prompt_remaining",),
    ),
    Topic(
        "llama_cpp",
        "llama.cpp is a program that runs language models on ordinary computers. It is written in C and C++.",
        ("What is llama.cpp?", "What is llama.cpp?", "What does llama.cpp do?", "What is llama.cpp for?",
         "What is llama cpp?", "Why llama.cpp?", "What is llama.cpp written in?"),
        ("llama.cpp",),
    ),
    Topic(
        "internet_computer",
        "The Internet Computer is a network of computers that runs canisters. The computers agree on every"
        " change, so nobody can cheat alone.",
        ("What is the Internet Computer?", "How does the Internet Computer work?",
         "What does the Internet Computer do?", "What is the IC?", "What is the internet computer?",
         "What runs canisters?", "What is ICP?"),
        ("the Internet Computer", "the IC"),
    ),
    Topic(
        "llama_canister",
        "llama-canister is a server that behaves like a canister and runs llama.cpp. You can use it on your"
        " own computer.",
        ("What is llama-canister?", "What does llama-canister do?", "What is llama-canister for?",
         "What is this project?", "What is this server?", "What is this?", "What is llama canister?"),
        ("llama-canister", "llama_cpp_canister"),
    ),
    Topic(
        "gguf",
        "A GGUF file holds a language model: its weights, its vocabulary and its settings. llama.cpp reads"
        " such files.",
        ("What is a GGUF file?", "What is GGUF?", "What is gguf?", "What is in a GGUF file?",
         "Which files does llama.cpp read?", "What are GGUF files?", "Which model files can I load?"),
        ("a GGUF file", "GGUF"),
    ),
    Topic(
        "token",
        "A token is a small piece of text, often a word or a part of a word. A language model reads and"
        " writes tokens.",
        ("What is a token?", "What are tokens?", "What is a token in a language model?",
         "How long is a token?",
         "Is a token a word?"),
        ("a token",),
    ),
    Topic(
        "language_model",
        "A language model is a program that has learned to guess the next token of a text. With many guesses"
        " it writes an answer.",
        ("What is a language model?", "How does a language model work?", "What is an LLM?", "What are LLMs?",
         "How do you work?", "How do you write an answer?", "What is a chat model?"),
        ("a language model", "an LLM"),
    ),
    Topic(
        "controller",
        "A controller is a principal that may manage a canister. It can install code, stop the canister and"
        " change its settings.",
        ("What is a controller?", "Who may manage a canister?", "What can a controller do?",
         "What are controllers?", "Who controls a canister?"),
        ("a controller", "controller"),
    ),
    Topic(
        "upload",
        "Send the model file in small chunks with the upload script. Then call load_model with the name of"
        " the file.",
        ("How do I upload a model?", "How do I load a model?", "How do I use another model?",
         "How can I load a larger model?", "How do I upload a file?", "How do I get a model into a canister?",
         "What does load_model do?", "Can I use a different model?"),
    ),
    Topic(
        "new_chat",
        "new_chat starts a fresh chat for the caller. It removes the old prompt cache, so the model begins"
        " with an empty memory.",
        ("What does new_chat do?", "What is new_chat?", "How do I start a new chat?",
         "How do I begin a new chat?",
         "How do I start again?", "How do I reset the chat?"),
        ("new_chat",),
    ),
    Topic(
        "chatml",
        "ChatML is a simple form for chats. Each message has a role, such as user or assistant, and ends with"
        " a special token.",
        ("What is ChatML?", "Which chat format do you use?", "What prompt format do you use?",
         "How should I write the prompt?", "What is the chat template?"),
        ("ChatML",),
    ),
    Topic(
        "candid",
        "Candid is the language that describes the methods of a canister. It says which arguments a method"
        " takes and what it returns.",
        ("What is Candid?", "What is candid for?", "What is a did file?",
         "How are canister methods described?"),
        ("Candid",),
    ),
    Topic(
        "wasm",
        "WebAssembly is a portable form of program code. Canisters on the Internet Computer run it.",
        ("What is WebAssembly?", "What is wasm?", "What code does a canister run?"),
        ("WebAssembly", "wasm"),
    ),
    Topic(
        "seed",
        "A seed is the start number of the random choices. The same seed and the same prompt give the same"
        " answer.",
        ("What is a seed?", "What is the seed for?", "Why is there a seed?",
         "How do I get the same answer twice?"),
        ("a seed",),
    ),
    Topic(
        "temperature_setting",
        "The temperature setting says how freely a model chooses its tokens. With zero it always takes the"
        " most likely one.",
        ("What is the temperature setting?", "What does --temp do?", "What is temp?",
         "What does the temperature of a model mean?", "How should I set the temperature?"),
    ),
    Topic(
        "how_answer_works",
        "First you send your prompt to the canister with an update call. The canister reads a part of the"
        " prompt, stores its state in the prompt cache, and tells you what remains. You send the same prompt"
        " again until nothing remains. Then you send an empty prompt, and the model begins to write. Each"
        " call writes only a few tokens, because every call must stay below the instruction limit. The new"
        " tokens are added to the conversation, and the prompt cache is saved again. You repeat the call, and"
        " the answer grows, piece by piece. When the model has said everything, it writes a special token,"
        " and generated_eog becomes true. Then the answer is complete, and you can ask the next question.",
        (
            "Explain step by step how a canister answers.", "Explain step by step how a canister answers.",
            "How does a canister answer a question, step by step?", "How does a canister write an answer?",
            "Explain in detail how an answer is made.", "How is a long answer made?",
            "How does a chat with a canister work?", "Describe how a chat with a canister works.",
            "Tell me step by step how I get an answer.", "Give me a long explanation of how you answer.",
            "How does the whole thing work?",
        ),
    ),
)
