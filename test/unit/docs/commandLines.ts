// SPDX-License-Identifier: Apache-2.0
/** Command lines in documents, in words. */

/** npm's scripts, and what they stand for. */
const SCRIPTS: Readonly<Record<string, readonly string[]>> = {
  boot: ['boot'],
  'smmu-cosim': [],
  bench: ['bench'],
  fuzz: ['fuzz'],
}

/** A line of a shell in words: quotes are taken off, comments left out. */
const shell = (line: string): string[] =>
  [...line.replace(/\s#.*$/, '').matchAll(/(?:[^\s'"]|'[^']*'|"[^"]*")+/g)].map(([word]) => word.replace(/['"]/g, ''))

/** The words behind `smmu-cosim` of a line that runs it; undefined: it runs something else. */
export function wordsOf(line: string): string[] | undefined {
  const [first, ...rest] = shell(line)
  if (first === 'smmu-cosim') return rest
  const main = [first, ...rest].indexOf('server/cli/main.ts')
  if (main >= 0) return rest.slice(main)
  const [run, script = '', dashes, ...words] = rest
  if (first !== 'npm' || run !== 'run' || !Object.hasOwn(SCRIPTS, script)) return undefined
  if (dashes !== undefined && dashes !== '--') return ['npm takes', dashes, 'for itself']
  return [...(SCRIPTS[script] ?? []), ...words]
}

/** Code of a document: fenced, indented, and in a line of prose where that is a whole command. */
export function lines(text: string): string[] {
  const fenced = [...text.matchAll(/^```\S*\n(.*?)^```/gms)].flatMap(([, body = '']) => body.split('\n'))
  const indented = [...text.matchAll(/^ {4}(\S.*)$/gm)].map(([, line = '']) => line)
  const inline = [...text.matchAll(/`(npm run [^`]+)`/g)].map(([, line = '']) => line)
  return [...fenced, ...indented, ...inline].filter(line => !line.includes('…'))
}
