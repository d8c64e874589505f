// SPDX-License-Identifier: Apache-2.0
/** What the tests of the documents need of Markdown: headings with their anchors, links, tables, code. */
import { readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository. */
export const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

const SKIPPED = new Set(['node_modules', '.git', 'runs', 'test-results'])

/** Files of the repository whose name ends so, relative to it, in order. */
export function files(...ends: readonly string[]): string[] {
  const found: string[] = []
  const walk = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory() && !SKIPPED.has(entry.name)) walk(path)
      else if (entry.isFile() && ends.some(end => entry.name.endsWith(end))) found.push(relative(ROOT, path))
    }
  }
  walk(ROOT)
  return found.sort()
}

/** Text outside of fenced code. */
export const prose = (text: string): string => text.replace(/^```.*?^```/gms, '')

/** Fenced code of a language. */
export const code = (text: string, language: string): string[] =>
  [...text.matchAll(/^```(\S*)\n(.*?)^```/gms)].filter(([, name]) => name === language).map(([, , body = '']) => body)

export interface Heading {
  readonly level: number
  readonly text: string
  /** As GitHub makes it. */
  readonly anchor: string
  /** `6.1` of `### 6.1. The host's queue`; empty where it has none. */
  readonly number: string
}

export function headings(text: string): Heading[] {
  const seen = new Map<string, number>()
  return [...prose(text).matchAll(/^(#+) (.*)$/gm)].map(([, marks = '', title = '']) => {
    const plain = title.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll('`', '')
    const slug = plain
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-')
    const before = seen.get(slug) ?? 0
    seen.set(slug, before + 1)
    const anchor = before === 0 ? slug : `${slug}-${before}`
    return { level: marks.length, text: plain, anchor, number: /^(\d+(?:\.\d+)*)\. /.exec(plain)?.[1] ?? '' }
  })
}

export interface Link {
  readonly text: string
  readonly target: string
}

/** Links and images. */
export const links = (text: string): Link[] =>
  [...prose(text).matchAll(/\[((?:[^\][]|\[[^\]]*\](?:\([^)]*\))?)*)\]\(([^)\s]+)\)/g)].flatMap(
    ([, inner = '', target = '']) => [{ text: inner, target }, ...links(inner)],
  )

/** The first table below a heading: its rows without the head, cells trimmed. */
export function tableBelow(text: string, heading: Heading): string[][] {
  const lines = text.split('\n')
  const start = lines.indexOf(`${'#'.repeat(heading.level)} ${heading.text}`)
  const first = lines.findIndex((line, i) => i > start && line.startsWith('|'))
  const end = lines.findIndex((line, i) => i > first && !line.startsWith('|'))
  return lines.slice(first + 2, end).map(line =>
    line
      .split('|')
      .slice(1, -1)
      .map(cell => cell.trim()),
  )
}
