// Markdown → a tree → virtual nodes. No HTML text is ever made, so nothing that a model writes becomes markup or a script.
// Raw HTML is shown as the text that it is; pictures are links, since nothing is fetched from elsewhere.
import type { ComponentChildren } from "preact";
import { fromMarkdown } from "mdast-util-from-markdown";
import { gfmStrikethroughFromMarkdown } from "mdast-util-gfm-strikethrough";
import { gfmTableFromMarkdown } from "mdast-util-gfm-table";
import { gfmStrikethrough } from "micromark-extension-gfm-strikethrough";
import { gfmTable } from "micromark-extension-gfm-table";
import type { Nodes, Parents, Root } from "mdast";
import { CopyButton, memo } from "./widgets";
import { t } from "./i18n";

const SAFE = /^(https?:|mailto:)/i;
const OPTIONS = {
  extensions: [gfmTable(), gfmStrikethrough()],
  mdastExtensions: [gfmTableFromMarkdown(), gfmStrikethroughFromMarkdown()],
};

const treeOf = (text: string): Root => fromMarkdown(text, OPTIONS);

const inside = (node: Parents): ComponentChildren => node.children.map((child, at) => <Node key={at} node={child} />);

function link(url: string, text: ComponentChildren): ComponentChildren {
  if (!SAFE.test(url)) return <>{text}</>;
  return (
    <a href={url} target="_blank" rel="noopener noreferrer">
      {text}
    </a>
  );
}

function Node({ node }: { node: Nodes }) {
  switch (node.type) {
    case "text":
      return <>{node.value}</>;
    case "html":
      return <span class="raw">{node.value}</span>;
    case "paragraph":
      return <p>{inside(node)}</p>;
    case "heading":
      return (
        <p class="heading" role="heading" aria-level={Math.min(6, node.depth + 2)}>
          {inside(node)}
        </p>
      );
    case "strong":
      return <strong>{inside(node)}</strong>;
    case "emphasis":
      return <em>{inside(node)}</em>;
    case "delete":
      return <del>{inside(node)}</del>;
    case "inlineCode":
      return <code>{node.value}</code>;
    case "break":
      return <br />;
    case "thematicBreak":
      return <hr />;
    case "blockquote":
      return <blockquote>{inside(node)}</blockquote>;
    case "link":
      return <>{link(node.url, inside(node))}</>;
    case "image":
      return <>{link(node.url, node.alt || node.url)}</>;
    case "list":
      return node.ordered ? <ol start={node.start ?? 1}>{inside(node)}</ol> : <ul>{inside(node)}</ul>;
    case "listItem":
      return <li>{inside(node)}</li>;
    case "code":
      return (
        <figure class="code">
          <figcaption>
            {node.lang || t("text")}
            <CopyButton text={node.value} />
          </figcaption>
          <pre tabIndex={0}>
            <code>{node.value}</code>
          </pre>
        </figure>
      );
    case "table":
      return (
        <div class="scroll" tabIndex={0} role="region" aria-label={t("Table")}>
          <table>
            <tbody>{inside(node)}</tbody>
          </table>
        </div>
      );
    case "tableRow":
      return <tr>{inside(node)}</tr>;
    case "tableCell":
      return <td>{inside(node)}</td>;
    default:
      return "children" in node ? <>{inside(node)}</> : null;
  }
}

export const Parsed = memo(({ text }: { text: string }) => <div class="prose">{inside(treeOf(text))}</div>);
