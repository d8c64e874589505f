// SPDX-License-Identifier: Apache-2.0
/** The behaviour reference as it stands in the repository: where the rules of hyp warnings lead to. */
import type { ComponentChildren } from 'preact'
import { useEffect, useMemo, useRef } from 'preact/hooks'
import { useLoaded } from '../hooks.ts'
import { type Block, type Inline, parseMarkdown } from '../markdown.ts'
import { route } from '../store.ts'
import { Load, REFERENCE, Scroll } from '../ui.tsx'

export function Reference() {
  const text = useLoaded(async () => (await import('../../../hypervisor/README.md?raw')).default, 0, [])
  return <Load from={text}>{loaded => <Article text={loaded} at={route.value.query.get('at')} />}</Load>
}

function Article({ text, at }: { text: string; at: string | null }) {
  const blocks = useMemo(() => parseMarkdown(text), [text])
  const article = useRef<HTMLElement>(null)
  useEffect(() => {
    if (at !== null) article.current?.querySelector(`[id="${CSS.escape(at)}"]`)?.scrollIntoView()
  }, [at])
  return (
    <article class="reference scroll" ref={article}>
      {blocks.map((block, i) => (
        <Shown key={i} block={block} at={at} />
      ))}
    </article>
  )
}

function Shown({ block, at }: { block: Block; at: string | null }) {
  switch (block.kind) {
    case 'heading': {
      const { anchor, inner, level } = block
      // The page has a heading of its own.
      const Heading = `h${Math.min(6, level + 1)}` as 'h2'
      return (
        <Heading id={anchor} class={anchor === at ? 'target' : ''}>
          <a href={`#/reference?at=${anchor}`}>{words(inner)}</a>
        </Heading>
      )
    }
    case 'paragraph':
      return <p>{words(block.inner)}</p>
    case 'list': {
      const List = block.ordered ? 'ol' : 'ul'
      return (
        <List>
          {block.items.map((item, i) => (
            <li key={i}>{words(item)}</li>
          ))}
        </List>
      )
    }
    case 'table':
      return (
        <Scroll class="wide" label="Table">
          <table>
            <thead>
              <tr>
                {block.head.map((cell, i) => (cell.length === 0 ? <td key={i} /> : <th key={i}>{words(cell)}</th>))}
              </tr>
            </thead>
            <tbody>
              {block.rows.map((row, i) => (
                <tr key={i}>
                  {row.map((cell, k) => (
                    <td key={k}>{words(cell)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )
  }
}

function words(inner: readonly Inline[]): ComponentChildren {
  return inner.map((part, i) => {
    switch (part.kind) {
      case 'code':
        return <code key={i}>{part.text}</code>
      case 'strong':
        return <strong key={i}>{part.text}</strong>
      case 'em':
        return <em key={i}>{part.text}</em>
      case 'link': {
        // Files of the repository are not served.
        const [file = '', anchor] = part.target.split('#')
        const here = file === '' || REFERENCE.endsWith(`/${file}`)
        return here && anchor !== undefined ? (
          <a key={i} href={`#/reference?at=${anchor}`}>
            {words(part.inner)}
          </a>
        ) : (
          <span key={i}>{words(part.inner)}</span>
        )
      }
      default:
        return part.text
    }
  })
}
