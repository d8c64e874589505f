// SPDX-License-Identifier: Apache-2.0
/** Markdown as the behaviour reference uses it: headings, paragraphs, lists, tables, and what stands in a line. */

export type Inline =
  | { readonly kind: 'text' | 'code' | 'strong' | 'em'; readonly text: string }
  | { readonly kind: 'link'; readonly target: string; readonly inner: readonly Inline[] }

export type Block =
  | { readonly kind: 'heading'; readonly level: number; readonly anchor: string; readonly inner: readonly Inline[] }
  | { readonly kind: 'paragraph'; readonly inner: readonly Inline[] }
  | { readonly kind: 'list'; readonly ordered: boolean; readonly items: readonly (readonly Inline[])[] }
  | {
      readonly kind: 'table'
      readonly head: readonly (readonly Inline[])[]
      readonly rows: readonly (readonly (readonly Inline[])[])[]
    }

const TOKEN =
  /`(?<code>[^`]+)`|\*\*(?<strong>[^*]+)\*\*|(?<!\w)_(?<em>[^_]+)_(?!\w)|\[(?<label>[^\]]+)\]\((?<target>[^)]+)\)|\\(?<escaped>[*_|\\`[\]])/g

export function parseInline(text: string): Inline[] {
  const out: Inline[] = []
  const plain = (part: string) => {
    const last = out.at(-1)
    if (part === '') return
    if (last?.kind === 'text') out[out.length - 1] = { kind: 'text', text: last.text + part }
    else out.push({ kind: 'text', text: part })
  }
  let at = 0
  for (const { index, 0: whole, groups = {} } of text.matchAll(TOKEN)) {
    plain(text.slice(at, index))
    at = index + whole.length
    const { code, strong, em, label, target, escaped } = groups
    if (code !== undefined) out.push({ kind: 'code', text: code })
    else if (strong !== undefined) out.push({ kind: 'strong', text: strong })
    else if (em !== undefined) out.push({ kind: 'em', text: em })
    else if (label !== undefined && target !== undefined) out.push({ kind: 'link', target, inner: parseInline(label) })
    else plain(escaped ?? '')
  }
  plain(text.slice(at))
  return out
}

/** The anchor of a heading, as GitHub makes it. */
export const anchorOf = (heading: string): string =>
  heading
    .replaceAll('`', '')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replaceAll(' ', '-')

/** Cells of a row; `\|` is no border. */
const cells = (line: string) =>
  line
    .slice(1, line.lastIndexOf('|'))
    .split(/(?<!\\)\|/)
    .map(cell => parseInline(cell.trim()))

const MARKER = /^(?:-|\d+\.) /

export function parseMarkdown(text: string): Block[] {
  return text.split(/\n{2,}/).flatMap((chunk): Block[] => {
    const lines = chunk.split('\n').filter(line => line !== '')
    const [first] = lines
    if (first === undefined) return []
    const heading = /^(#+) (.*)$/.exec(first)
    if (heading !== null) {
      const [, marks = '', title = ''] = heading
      return [
        { kind: 'heading', level: marks.length, anchor: anchorOf(title), inner: parseInline(title) },
        ...parseMarkdown(lines.slice(1).join('\n')),
      ]
    }
    if (first.startsWith('|')) {
      return [{ kind: 'table', head: cells(first), rows: lines.slice(2).map(cells) }]
    }
    if (MARKER.test(first)) {
      // A line without a marker goes on with the item before it.
      const items = lines.join('\n').split(/\n(?=(?:-|\d+\.) )/)
      return [
        {
          kind: 'list',
          ordered: /^\d/.test(first),
          items: items.map(item => parseInline(item.replace(MARKER, '').replace(/\s*\n\s*/g, ' '))),
        },
      ]
    }
    return [{ kind: 'paragraph', inner: parseInline(lines.join(' ')) }]
  })
}
