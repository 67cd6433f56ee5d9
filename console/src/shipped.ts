// The model that comes with the package, put into the canister and loaded in one step.
import { ask, call, canisterPath, request } from "./api";
import { send } from "./uploads";
import { t } from "./i18n";

const NAME = "llama-canister-tiny.gguf";
const PATH = `models/${NAME}`;

/** Load it, and put it in before where it is not there. args: more flags of load_model. Raises an Error. */
export async function loadShipped(args: string[] = []): Promise<void> {
  const { models } = (await ask<{ models: { path: string }[] }>(canisterPath("models"), undefined, { verb: "GET" })).value;
  if (!models.some((one) => one.path === PATH)) {
    const response = await request(`console/shipped/${NAME}`);
    if (!response.ok) throw new Error(t("The model that comes with the package is not in this installation."));
    if (!(await send(await response.blob(), PATH))) throw new Error(t("The model could not be added."));
  }
  await call("load_model", { args: ["--model", PATH, ...args] });
}
