// SPDX-License-Identifier: Apache-2.0
/** Prometheus' text exposition, version 0.0.4. */

export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** Labels, and the value that goes with them. */
export type Sample = readonly [labels: Readonly<Record<string, string>>, value: number]

const escaped = (text: string): string => text.replace(/[\\"\n]/g, c => (c === '\n' ? '\\n' : `\\${c}`))

/** @param name with the project's prefix */
export function family(
  name: string,
  type: 'counter' | 'gauge' | 'summary',
  help: string,
  samples: readonly Sample[],
): string {
  const lines = samples.map(([labels, value]) => {
    const text = Object.entries(labels).map(([key, label]) => `${key}="${escaped(label)}"`)
    return `${name}${text.length > 0 ? `{${text.join(',')}}` : ''} ${value}`
  })
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines, ''].join('\n')
}
