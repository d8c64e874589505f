// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import type { ApiError } from './api.ts'
import { recording, shown } from './recorded/open.ts'

export interface Loaded<T> {
  readonly data: T | undefined
  readonly error: ApiError | undefined
  readonly loading: boolean
  reload(): void
}

/**
 * Loads now, again every `ms` while the page is visible (0: once), and when `deps` change or another moment is shown. Old data is kept until the new data is
 * there, so nothing flickers.
 */
export function useLoaded<T>(load: () => Promise<T>, ms: number, deps: readonly unknown[]): Loaded<T> {
  const [state, setState] = useState<{ data?: T; error?: ApiError; loading: boolean }>({ loading: true })
  const [turn, setTurn] = useState(0)
  const latest = useRef(load)
  latest.current = load
  useEffect(() => {
    let live = true
    let timer: ReturnType<typeof setTimeout> | undefined
    setState(({ data }) => ({ ...(data !== undefined && { data }), loading: true }))
    const ask = async () => {
      try {
        const data = await latest.current()
        if (live) setState({ data, loading: false })
      } catch (error) {
        if (live)
          setState(({ data }) => ({ ...(data !== undefined && { data }), error: error as ApiError, loading: false }))
      }
      if (live && ms > 0 && recording.peek() === undefined) timer = setTimeout(again, ms)
    }
    const again = () => {
      if (document.hidden) timer = setTimeout(again, ms)
      else void ask()
    }
    void ask()
    return () => {
      live = false
      clearTimeout(timer)
    }
  }, [...deps, turn, ms, shown.value])
  const reload = useCallback(() => setTurn(t => t + 1), [])
  return { data: state.data, error: state.error, loading: state.loading, reload }
}

/** Width and height of an element, in CSS pixels. */
export function useSize<T extends HTMLElement>() {
  const ref = useRef<T>(null)
  const [size, setSize] = useState({ width: 0, height: 0 })
  useEffect(() => {
    const element = ref.current
    if (element === null) return
    const observer = new ResizeObserver(([entry]) => {
      if (entry) setSize({ width: entry.contentRect.width, height: entry.contentRect.height })
    })
    observer.observe(element)
    return () => observer.disconnect()
  }, [])
  return { ref, ...size }
}
